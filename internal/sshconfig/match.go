package sshconfig

import "strings"

// matchHost reports whether the patterns of a Host line mean a host: one does,
// and none that begins with "!" does.
func matchHost(host string, patterns []string) bool {
	matched := false
	for _, p := range patterns {
		p, negated := strings.CutPrefix(p, "!")
		if p == "" || !wildcard(p, host) {
			continue
		}
		if negated {
			return false
		}
		matched = true
	}
	return matched
}

// wildcard matches "*" and "?", in time that grows with the product of the
// lengths whatever the pattern.
func wildcard(pattern, s string) bool {
	star, mark := -1, 0
	p, i := 0, 0
	for i < len(s) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, i
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == s[i]):
			p++
			i++
		case star >= 0:
			mark++
			p, i = star+1, mark
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}

// match evaluates a Match line. A criterion that cannot be judged here decides
// only if all others are met.
func (e *evaluation) match(l *line) bool {
	result, open := true, false
	for args := l.args; len(args) > 0; {
		name, value, inline := strings.Cut(args[0], "=")
		args = args[1:]
		name, negated := strings.CutPrefix(strings.ToLower(name), "!")
		var met bool
		switch name {
		case "all":
			met = true
		case "final":
			e.wantsFinal = true
			met = e.final
		case "canonical":
			met = e.final // which is the pass after a canonicalization, too
		default:
			if !inline {
				if len(args) == 0 {
					e.beyond("Match", l)
					return false
				}
				value, args = args[0], args[1:]
			}
			patterns := strings.Split(value, ",")
			switch name {
			case "host":
				met = matchHost(e.hostName(), patterns)
			case "originalhost":
				met = matchHost(e.target.Host, patterns)
			case "user":
				user := e.host.User
				if user == "" {
					user = e.config.LocalUser()
				}
				met = matchHost(user, patterns)
			case "localuser":
				met = matchHost(e.config.LocalUser(), patterns)
			default: // exec, localnetwork, tagged, …
				open = true
				continue
			}
		}
		if met == negated {
			result = false
		}
	}
	if result && (open || l.bad) {
		e.beyond("Match", l)
		return false
	}
	return result
}

// hostName is the name to connect to, as far as it is known yet.
func (e *evaluation) hostName() string {
	if e.host.Name == "" {
		return e.target.Host
	}
	return strings.NewReplacer("%%", "%", "%h", e.target.Host).Replace(e.host.Name)
}
