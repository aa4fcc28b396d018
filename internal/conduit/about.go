package conduit

import (
	"context"

	"gitcluster/internal/cluster"
)

// The methods that are about the API and the caller, not about a repository.
var aboutMethods = map[string]method{
	"conduit.ping": {about: "Tells that the node answers.", gives: "string", run: ping},
	"conduit.getcapabilities": {about: "Lists how one may authenticate and in which forms calls and answers come.",
		gives: "dict<string, any>", run: capabilities},
	"conduit.query": {about: "Lists the methods with their parameters.", gives: "dict<dict>", run: listMethods},
	"user.whoami":   {about: "Tells who the caller is.", gives: "nonempty dict<string, wild>", run: whoami},
}

// ping gives the node's name where Phabricator gives its host's.
func ping(_ context.Context, q *call) (any, error) { return q.Device, nil }

func capabilities(context.Context, *call) (any, error) {
	return map[string]any{
		"authentication": []string{"token"},
		"signatures":     []string{},
		"input":          []string{"json", "urlencoded"},
		"output":         []string{"json"},
	}, nil
}

func listMethods(_ context.Context, q *call) (any, error) {
	all := map[string]any{}
	for name, m := range q.methods {
		params := m.params
		if params == nil {
			params = map[string]string{}
		}
		all[name] = map[string]any{"description": m.about, "params": params, "return": m.gives}
	}
	return all, nil
}

func whoami(_ context.Context, q *call) (any, error) {
	if q.id == (cluster.Identity{}) {
		return nil, faultf(codeAuth, "you are anonymous: send a token")
	}
	roles := []string{"activated", "approved"}
	if q.id.User == "" {
		roles = append(roles, "agent")
	}
	if q.Rules().Admin(q.id) {
		roles = append(roles, "admin")
	}
	name := q.id.String()
	if q.id.User != "" {
		name = string(q.id.User)
	}
	return map[string]any{
		"phid":         userPHID(name),
		"userName":     name,
		"realName":     q.id.String(),
		"image":        nil,
		"uri":          nil,
		"roles":        roles,
		"primaryEmail": nil,
	}, nil
}

// The identifiers that clients keep. They are made of names that do not change.
func userPHID(name string) string             { return "PHID-USER-" + name }
func repositoryPHID(id cluster.RepoID) string { return repositoryPrefix + string(id) }

const repositoryPrefix = "PHID-REPO-"
