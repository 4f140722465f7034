package api

import (
	"reflect"

	"github.com/sallyport/sallyport/internal/shape"
)

// ReadInput reads an input as the operation would, and returns it.
func (o Op) ReadInput(v shape.Value) (any, error) {
	in := reflect.New(o.in).Interface()
	in.(shape.Input).Read(v)
	return in, v.Err()
}
