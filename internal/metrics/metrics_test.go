package metrics

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"gitcluster/internal/cluster"
)

func TestPage(t *testing.T) {
	m := New("1.2.3")
	m.Watch(func() Load {
		return Load{Replicas: 7, Behind: 2, Versions: 40, Running: 3, Waiting: 5, Shared: 6, Listed: 8}
	})
	m.Request(Request{Front: "ssh", Service: "upload-pack", Took: 30 * time.Millisecond, Waited: time.Millisecond, In: 100, Out: 2000})
	m.Request(Request{Front: "http", Service: "receive-pack", Err: fmt.Errorf("x: %w", cluster.ErrUnavailable), Took: time.Second})
	m.Request(Request{Front: "ssh", Service: "upload-pack", Err: context.Canceled, Took: time.Minute, Waited: time.Minute})
	m.Journal("lookup", 3*time.Millisecond, nil)
	m.Journal("append", time.Second, fmt.Errorf("x: %w", cluster.ErrUnavailable))
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	page, err := io.ReadAll(w.Result().Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`gitcluster_build_info{version="1.2.3"} 1`,
		`gitcluster_requests_total{front="ssh",outcome="ok",service="upload-pack"} 1`,
		`gitcluster_requests_total{front="http",outcome="error",service="receive-pack"} 1`,
		`gitcluster_errors_total{kind="journal_unavailable"} 1`,
		`gitcluster_requests_total{front="ssh",outcome="canceled",service="upload-pack"} 1`,
		`gitcluster_sync_wait_seconds_bucket{service="upload-pack",le="0.001"} 1`,
		`gitcluster_bytes_total{direction="out",front="ssh"} 2000`,
		`gitcluster_journal_seconds_count{operation="lookup"} 1`,
		`gitcluster_journal_errors_total{operation="append"} 1`,
		`gitcluster_versions_behind 40`, `gitcluster_replicas_behind 2`, `gitcluster_git_waiting 5`, `gitcluster_packs_shared_total 6`, `gitcluster_listings_kept_total 8`,
	} {
		if !strings.Contains(string(page), want+"\n") {
			t.Errorf("the page lacks %s", want)
		}
	}
}

func TestKind(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{
		{fmt.Errorf("a: %w", cluster.ErrNoReplica), "no_replica"},
		{cluster.WithHint(cluster.ErrDenied, "ask"), "denied"},
		{context.Canceled, "canceled"},
		{errors.New("something else"), "other"},
	} {
		if got := Kind(c.err); got != c.want {
			t.Errorf("%v: %s, want %s", c.err, got, c.want)
		}
	}
}

func TestNilCountsNothing(t *testing.T) {
	var m *Metrics
	m.Request(Request{Err: errors.New("x")})
	m.Journal("lookup", 0, nil)
}
