package server

import (
	"bytes"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/broker"
	"github.com/sallyport/sallyport/internal/panics"
	"github.com/sallyport/sallyport/internal/route"
)

// A panic in answering a request closes its connection, writes one line to the
// log and is counted among the metrics. The next request is answered.
func TestAPanicEndsOneRequest(t *testing.T) {
	var log bytes.Buffer
	logger := slog.New(slog.NewJSONHandler(&log, nil))
	s := httptest.NewServer(contained(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/bug" {
			panic("a bug")
		}
		io.WriteString(w, "ok")
	}), logger))
	s.Config.ErrorLog = slog.NewLogLogger(logger.Handler(), slog.LevelError)
	defer s.Close()
	before := panics.Count()
	if resp, err := http.Get(s.URL + "/bug"); err == nil {
		t.Errorf("the bug was answered with %s", resp.Status)
		resp.Body.Close()
	}
	resp, err := http.Get(s.URL + "/")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, err := io.ReadAll(resp.Body); string(b) != "ok" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
	s.Close() // so that the log is whole
	if lines := strings.Count(log.String(), "\n"); lines != 1 || !strings.Contains(log.String(), "a bug") || !strings.Contains(log.String(), "TestAPanicEndsOneRequest") {
		t.Errorf("the log has %d lines:\n%s", lines, &log)
	}
	families, err := metrics(&broker.Broker{}, new(route.Memory)).Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "sallyport_panics_total" {
			if got := f.Metric[0].GetCounter().GetValue(); got < float64(before+1) {
				t.Errorf("%v panics are counted, there were %d before", got, before)
			}
			return
		}
	}
	t.Error("panics are not among the metrics")
}
