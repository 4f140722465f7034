package api

import (
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// What operations follow a pointer of their input to is there: AWS's model requires
// it, or the operation asks whether it is. A request without it would panic.
func TestWhatIsNotRequiredIsAskedFor(t *testing.T) {
	files := token.NewFileSet()
	followed := 0
	for _, service := range []string{"ssm", "iam", "kms", "sts"} {
		names, err := filepath.Glob(service + "/*.go")
		if err != nil || len(names) == 0 {
			t.Fatalf("%s has no files, %v", service, err)
		}
		for _, name := range names {
			if strings.HasSuffix(name, "_test.go") {
				continue
			}
			file, err := parser.ParseFile(files, name, nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			ast.Inspect(file, func(n ast.Node) bool {
				switch f := n.(type) {
				case *ast.FuncDecl:
					if f.Body != nil {
						followed += checkInputs(t, files, service, f.Type, f.Body)
					}
				case *ast.FuncLit:
					followed += checkInputs(t, files, service, f.Type, f.Body)
				}
				return true
			})
		}
	}
	if followed < 100 {
		t.Errorf("only %d pointers are followed", followed)
	}
}

// checkInputs checks a function that has an input of a service's for a parameter,
// and returns how many of the input's pointers it follows.
func checkInputs(t *testing.T, files *token.FileSet, service string, f *ast.FuncType, body *ast.BlockStmt) (followed int) {
	for _, p := range f.Params.List {
		operation, ok := strings.CutPrefix(types.ExprString(p.Type), "*"+service+".")
		operation, input := strings.CutSuffix(operation, "Input")
		if !ok || !input || len(p.Names) == 0 {
			continue
		}
		in := p.Names[0].Name
		asked := map[string]bool{} // compared with nil, anywhere in the function
		ast.Inspect(body, func(n ast.Node) bool {
			if b, ok := n.(*ast.BinaryExpr); ok && types.ExprString(b.Y) == "nil" {
				asked[types.ExprString(b.X)] = true
			}
			return true
		})
		ast.Inspect(body, func(n ast.Node) bool {
			star, ok := n.(*ast.StarExpr)
			if !ok {
				return true
			}
			member, ok := star.X.(*ast.SelectorExpr)
			if !ok || types.ExprString(member.X) != in {
				return true
			}
			followed++
			s := shapes()[service]["op "+operation]
			if s == nil || !slices.Contains(s.Required, member.Sel.Name) && !asked[types.ExprString(member)] {
				t.Errorf("%v: %s of %s is not required, and not asked for", files.Position(star.Pos()), types.ExprString(star), operation)
			}
			return true
		})
	}
	return followed
}
