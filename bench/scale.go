package main

import "time"

// A scale is how large and how long everything is.
type scale struct {
	Name      string
	Fast      int // repetitions of what takes a fraction of a second
	Starts    int // of what takes milliseconds
	Slow      int // of what takes seconds
	Rounds    int // of what keeps the machine busy for long
	Small     recipe
	ManyRefs  recipe // the commits of Small under many more refs
	Big       recipe
	Pushing   time.Duration // for which clients push, in each round
	Pushers   int           // at once
	Clones    int           // at once
	Readers   int           // at once, on each of two nodes
	Opened    int           // connections at once
	RoundTrip time.Duration
	Idle      time.Duration // for which a node's use of CPU is looked at
	Soak      time.Duration // 0: not at all
}

// smallShape is a project of a few people.
var smallShape = shape{Files: 40, Lines: 80, Commits: 300, Touched: 3, Hunk: 8, NewFile: 20}

var (
	full = scale{
		Name: "full", Fast: 21, Starts: 201, Slow: 3, Rounds: 3,
		Small: recipe{smallShape, 10}, ManyRefs: recipe{smallShape, 100_000},
		Big:     recipe{shape{Files: 3500, Lines: 800, Commits: 10_000, Touched: 4, Hunk: 40, NewFile: 4}, 200},
		Pushing: 20 * time.Second, Pushers: 8, Clones: 16, Readers: 64, Opened: 200, RoundTrip: 100 * time.Millisecond, Idle: 10 * time.Second,
	}
	small = scale{
		Name: "quick", Fast: 5, Starts: 21, Slow: 3, Rounds: 2,
		Small: recipe{smallShape, 10}, ManyRefs: recipe{smallShape, 10_000},
		Big:     recipe{shape{Files: 400, Lines: 400, Commits: 600, Touched: 4, Hunk: 40, NewFile: 4}, 200},
		Pushing: 3 * time.Second, Pushers: 8, Clones: 8, Readers: 16, Opened: 100, RoundTrip: 100 * time.Millisecond, Idle: 3 * time.Second,
	}
	tiny = scale{
		Name: "smoke", Fast: 1, Starts: 3, Slow: 1, Rounds: 1,
		Small: recipe{smallShape, 10}, ManyRefs: recipe{smallShape, 1000},
		Big:     recipe{shape{Files: 100, Lines: 100, Commits: 100, Touched: 4, Hunk: 40, NewFile: 4}, 50},
		Pushing: time.Second, Pushers: 3, Clones: 2, Readers: 3, Opened: 20, RoundTrip: 40 * time.Millisecond, Idle: time.Second,
	}
)
