package main

import "context"

// A row is a part of the table, measured by itself.
type row struct {
	name    string
	measure func(context.Context, *bench) error
}

// allRows are measured in this order: what keeps memory or adds nodes comes last.
var allRows = []row{
	{"helper start", helperStart},
	{"no-op ls-remote", noopList},
	{"no-op fetch", noopFetch},
	{"sync check", syncCheck},
	{"read after a push", readAfterPush},
	{"push", onePush},
	{"push to many refs", pushManyRefs},
	{"journal and bytes", journalAndBytes},
	{"delay", farAway},
	{"pushes", sustainedPushes},
	{"clone", cloneBig},
	{"clones at once", clonesAtOnce},
	{"memory", nodeMemory},
	{"soak", soak},
	{"herd", herd},
}
