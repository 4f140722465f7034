package api_test

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/shape"
)

type nothing struct{}

func (*nothing) Read(shape.Value)   {}
func (*nothing) Write(shape.Writer) {}

type unwritable struct{ text *string }

func (u *unwritable) Write(w shape.Writer) { w.Text("Text", *u.text) }

// A panic in an operation is InternalServerError to its caller, and one line in
// the log with the request's ID.
func TestAPanicIsInternalServerError(t *testing.T) {
	none := api.Nothing("it is a test")
	var log bytes.Buffer
	s := &api.Server{
		Log: slog.New(slog.NewJSONHandler(&log, nil)),
		Services: []*api.Service{{Name: "x", Door: api.JSON{Target: "X"}, Model: &shape.Model{}, Ops: map[string]api.Op{
			"Break": api.Read(func(context.Context, *api.Call, *nothing) (*nothing, error) {
				var log *slog.Logger // as a field that was never set
				log.Info("x")
				return nil, nil
			}, none, api.Unsigned),
			"Say":  api.Read(func(context.Context, *api.Call, *nothing) (*unwritable, error) { return new(unwritable), nil }, none, api.Unsigned),
			"Work": api.Read(func(context.Context, *api.Call, *nothing) (*nothing, error) { return new(nothing), nil }, none, api.Unsigned),
		}}},
	}
	call := func(op string) *httptest.ResponseRecorder {
		r := httptest.NewRequest("POST", "/", strings.NewReader("{}"))
		r.Header.Set("X-Amz-Target", "X."+op)
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		return w
	}
	w := call("Break")
	if w.Code != http.StatusInternalServerError || !strings.Contains(w.Body.String(), `"__type":"InternalServerError"`) || strings.Contains(w.Body.String(), "map") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if id := w.Header().Get("x-amzn-RequestId"); strings.Count(log.String(), "\n") != 1 || !strings.Contains(log.String(), id) || !strings.Contains(log.String(), "panics_test.go") {
		t.Errorf("the log has:\n%s", &log)
	}
	if w := call("Say"); w.Code != http.StatusInternalServerError || !strings.Contains(w.Body.String(), `"__type":"InternalServerError"`) {
		t.Errorf("an answer that cannot be written: %d %s", w.Code, w.Body)
	}
	if w := call("Work"); w.Code != http.StatusOK {
		t.Errorf("the next request: %d %s", w.Code, w.Body)
	}
}
