package access

import "gitcluster/internal/cluster"

// deviceSubject precedes a device's name in the subject of a grant.
const deviceSubject = "device/"

// Role is what an identity may do with a repository: the strongest of
// everything that gives it something. A repository that is only being created
// is described by its Name.
func (d *Directory) Role(id cluster.Identity, repo *cluster.Repo) cluster.Role {
	role := d.role(id, repo)
	if id.ReadOnly {
		role = min(role, cluster.RoleRead)
	}
	return role
}

func (d *Directory) role(id cluster.Identity, repo *cluster.Repo) cluster.Role {
	if repo == nil {
		return cluster.RoleNone
	}
	role := cluster.RoleNone
	if repo.Public {
		role = cluster.RoleRead
	}
	if isOperator(id) {
		return cluster.RoleAdmin
	}
	// An identity outlives the record it came from by as long as a connection
	// stays open, so the records are asked again each time.
	if id.Device != "" && d.usable(id.Device) != nil {
		return role
	}
	switch {
	case id.User != "":
		// Also a device acting as that user: it gets the user's role, not its own.
		user, ok := d.User(id.User)
		if !ok {
			return role
		}
		if user.Admin {
			if id.Device == "" {
				return cluster.RoleAdmin
			}
			role = cluster.RoleWrite // a machine's key is worth no administrator's
		}
		role = max(role, d.granted(string(id.User), repo.Name), d.granted(cluster.EveryUser, repo.Name))
	case id.Device != "":
		// Devices hold or mirror repositories, so they read them all.
		role = max(role, cluster.RoleRead, d.granted(deviceSubject+string(id.Device), repo.Name))
	}
	return role
}

// Admin reports whether an identity may administer the cluster itself: its
// users, keys, grants, devices and repositories.
func (d *Directory) Admin(id cluster.Identity) bool {
	if isOperator(id) {
		return true
	}
	if id.User == "" || id.ReadOnly || id.Device != "" {
		return false // a machine that acts as an administrator administers nothing
	}
	user, ok := d.User(id.User)
	return ok && user.Admin
}

func (d *Directory) granted(subject string, repo cluster.RepoName) cluster.Role {
	role := cluster.RoleNone
	if d == nil {
		return role
	}
	for _, g := range d.grants[subject] {
		if g.Pattern.Covers(repo) {
			role = max(role, g.Role)
		}
	}
	return role
}

// isOperator reports whether an identity is the operator and nobody else: one
// that also names a user or a device has only what those have.
func isOperator(id cluster.Identity) bool {
	return id.Operator && id.User == "" && id.Device == ""
}
