package client

import (
	"strings"
	"testing"
)

// A refusal of the document says what the policy lacks; one of the node does not.
func TestRefusedDocument(t *testing.T) {
	const begin = "User: x is not authorized to perform: ssm:StartSession on resource: arn:aws:ssm:home-1:000000000000:"
	for _, c := range []struct{ document, resource, says string }{
		{DocumentExec, "document/Sallyport-Exec", `has to have "arn:aws:ssm:*:*:document/Sallyport-Exec" too.`},
		{DocumentExec, "managed-instance/mi-00000000000000001", "because no policy allows it"},
		{"", "document/SSM-SessionManagerRunShell", "because no policy allows it"},
	} {
		p := newPlane(t)
		p.answer = func(string) (int, string) {
			return 400, `{"__type":"AccessDeniedException","message":"` + begin + c.resource + ` because no policy allows it"}`
		}
		_, err := p.serve(nil).StartSession(t.Context(), StartSession{Target: "mi-00000000000000001", DocumentName: c.document})
		if err == nil || !strings.HasSuffix(err.Error(), c.says) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}
