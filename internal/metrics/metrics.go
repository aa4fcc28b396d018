// Package metrics counts what one node does, for Prometheus to collect.
//
// Entry points: [New]; [Metrics.Request] and [Metrics.Journal] where something
// ends; [Metrics.Watch] for what is looked at when somebody asks; and
// [Metrics.Handler], which is the page.
//
// It promises that no name of a repository, user or address is in a label: their
// number has no bound, and the page may be read by those who may not know them.
// The methods of a nil Metrics do nothing.
package metrics

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"gitcluster/internal/cluster"
)

// Metrics are the counts of one node.
type Metrics struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	errors   *prometheus.CounterVec
	took     *prometheus.HistogramVec
	waited   *prometheus.HistogramVec
	bytes    *prometheus.CounterVec
	journal  *prometheus.HistogramVec
	lost     *prometheus.CounterVec
}

// A Request is one request on a repository, at its end.
type Request struct {
	Front   string // ssh, http, conduit, web
	Service string // upload-pack, receive-pack, …
	Err     error
	Took    time.Duration
	Waited  time.Duration // for the replica to be current
	In, Out int64         // bytes from and to the client
}

// A Load is what a node has on its hands at a moment.
type Load struct {
	Replicas int    // that the node has looked at since its start
	Behind   int    // of them, those that lag behind the journal
	Versions uint64 // by which they lag, in all
	Running  int    // Git processes that serve clients
	Waiting  int    // requests that wait for their turn
	Shared   uint64 // packs, since the start, that a fetch got without a run of its own
	Listed   uint64 // lists of refs, since the start, that a fetch got without a process
}

const space = "gitcluster"

// New returns counts that begin at zero.
func New(version string) *Metrics {
	// From a read of a replica in sync to a push that waits for an election.
	times := []float64{.001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 30, 60, 300}
	histogram := func(name, help string, labels ...string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: space, Name: name, Help: help, Buckets: times}, labels)
	}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: space, Name: name, Help: help}, labels)
	}
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		requests: counter("requests_total", "Requests on repositories that have ended.", "front", "service", "outcome"),
		errors:   counter("errors_total", "Requests that failed, by the kind of error.", "kind"),
		took:     histogram("request_seconds", "Time from a request to its end.", "service"),
		waited:   histogram("sync_wait_seconds", "Time a request waited for its replica to be current.", "service"),
		bytes:    counter("bytes_total", "Bytes of requests (in) and answers (out).", "front", "direction"),
		journal:  histogram("journal_seconds", "Time of the journal's answers.", "operation"),
		lost:     counter("journal_errors_total", "Calls to the journal that failed.", "operation"),
	}
	build := prometheus.NewGauge(prometheus.GaugeOpts{Namespace: space, Name: "build_info", Help: "1, with the version as a label.", ConstLabels: prometheus.Labels{"version": version}})
	build.Set(1)
	m.registry.MustRegister(m.requests, m.errors, m.took, m.waited, m.bytes, m.journal, m.lost, build,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Request counts a request that has ended.
func (m *Metrics) Request(q Request) {
	if m == nil {
		return
	}
	outcome := "ok"
	switch kind := Kind(q.Err); {
	case q.Err == nil:
	case kind == Canceled:
		outcome = Canceled
	default:
		outcome = "error"
		m.errors.WithLabelValues(kind).Inc()
	}
	m.requests.WithLabelValues(q.Front, q.Service, outcome).Inc()
	m.took.WithLabelValues(q.Service).Observe(q.Took.Seconds())
	m.waited.WithLabelValues(q.Service).Observe(q.Waited.Seconds())
	m.bytes.WithLabelValues(q.Front, "in").Add(float64(q.In))
	m.bytes.WithLabelValues(q.Front, "out").Add(float64(q.Out))
}

// Journal counts one call to the journal.
func (m *Metrics) Journal(operation string, took time.Duration, err error) {
	if m == nil {
		return
	}
	m.journal.WithLabelValues(operation).Observe(took.Seconds())
	if errors.Is(err, cluster.ErrUnavailable) {
		m.lost.WithLabelValues(operation).Inc()
	}
}

// Watch has the page show what load returns when it is asked for.
func (m *Metrics) Watch(load func() Load) {
	m.registry.MustRegister(&loadCollector{load})
}

// Handler serves the page.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: 10 * time.Second})
}

// Canceled is the kind of a request whose client left.
const Canceled = "canceled"

// Kind sorts an error by what an operator would do about it.
func Kind(err error) string {
	for _, k := range []struct {
		err  error
		kind string
	}{
		{cluster.ErrUnavailable, "journal_unavailable"},
		{cluster.ErrNoReplica, "no_replica"},
		{cluster.ErrFenced, "fenced"},
		{cluster.ErrStopping, "stopping"},
		{cluster.ErrBusy, "busy"},
		{cluster.ErrDenied, "denied"},
		{cluster.ErrNotFound, "not_found"},
		{cluster.ErrBadRepoName, "not_found"},
		{context.Canceled, Canceled},
		{context.DeadlineExceeded, "timeout"},
	} {
		if errors.Is(err, k.err) {
			return k.kind
		}
	}
	return "other"
}

// A loadCollector asks for the load once for all its values.
type loadCollector struct{ load func() Load }

var (
	descReplicas = prometheus.NewDesc(space+"_replicas", "Replicas this node has looked at since its start.", nil, nil)
	descBehind   = prometheus.NewDesc(space+"_replicas_behind", "Replicas of this node that lag behind the journal.", nil, nil)
	descVersions = prometheus.NewDesc(space+"_versions_behind", "Versions by which they lag, in all.", nil, nil)
	descRunning  = prometheus.NewDesc(space+"_git_processes", "Git processes that serve clients now.", nil, nil)
	descWaiting  = prometheus.NewDesc(space+"_git_waiting", "Requests that wait for a free process.", nil, nil)
	descListed   = prometheus.NewDesc(space+"_listings_kept_total", "Lists of refs that a fetch was told without a Git process.", nil, nil)
	descShared   = prometheus.NewDesc(space+"_packs_shared_total", "Packs that a fetch shared with another.", nil, nil)
)

func (c *loadCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descReplicas, descBehind, descVersions, descRunning, descWaiting, descShared, descListed} {
		ch <- d
	}
}

func (c *loadCollector) Collect(ch chan<- prometheus.Metric) {
	l := c.load()
	for _, g := range []struct {
		desc  *prometheus.Desc
		value float64
	}{{descReplicas, float64(l.Replicas)}, {descBehind, float64(l.Behind)}, {descVersions, float64(l.Versions)},
		{descRunning, float64(l.Running)}, {descWaiting, float64(l.Waiting)}} {
		ch <- prometheus.MustNewConstMetric(g.desc, prometheus.GaugeValue, g.value)
	}
	ch <- prometheus.MustNewConstMetric(descShared, prometheus.CounterValue, float64(l.Shared))
	ch <- prometheus.MustNewConstMetric(descListed, prometheus.CounterValue, float64(l.Listed))
}
