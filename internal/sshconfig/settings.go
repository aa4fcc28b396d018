package sshconfig

import (
	"slices"
	"strconv"
	"strings"
	"time"
)

// apply takes over one setting that counts for the host.
func (e *evaluation) apply(l *line) {
	h := e.host
	if l.bad || len(l.args) == 0 {
		e.beyond(l.name, l)
		return
	}
	switch value := l.args[0]; l.key {
	case "hostname":
		e.text(l, &h.Name)
	case "user":
		e.text(l, &h.User)
	case "port":
		if n, err := strconv.ParseUint(value, 10, 16); err != nil || n == 0 {
			e.beyond(l.name, l)
		} else if e.first(l) {
			h.Port = int(n)
		}
	case "identityfile":
		h.IdentityFiles = add(h.IdentityFiles, value)
	case "certificatefile":
		h.CertificateFiles = add(h.CertificateFiles, value)
	case "identityagent":
		e.text(l, &h.IdentityAgent)
	case "identitiesonly":
		e.yes(l, &h.IdentitiesOnly)
	case "addkeystoagent":
		// With a confirmation or a time it is more than adding it.
		if e.first(l) {
			h.AddKeysToAgent = isYes(value)
		}
	case "userknownhostsfile":
		e.list(l, &h.UserKnownHosts)
	case "globalknownhostsfile":
		e.list(l, &h.GlobalKnownHosts)
	case "hashknownhosts":
		e.yes(l, &h.HashKnownHosts)
	case "hostkeyalias":
		e.text(l, &h.HostKeyAlias)
	case "stricthostkeychecking":
		e.strict(l)
	case "batchmode":
		e.yes(l, &h.Batch)
	case "proxyjump":
		e.jump(l)
	case "connecttimeout":
		if d, ok := seconds(value); ok && e.first(l) {
			h.ConnectTimeout = d
		} else if !ok {
			e.beyond(l.name, l)
		}
	case "addressfamily":
		switch family := strings.ToLower(value); {
		case !e.first(l) || family == "any":
		case family == "inet" || family == "inet6":
			h.AddressFamily = family
		default:
			e.beyond(l.name, l)
		}
	case "hostkeyalgorithms":
		e.text(l, &h.HostKeyAlgorithms)
	case "casignaturealgorithms":
		e.text(l, &h.CASignatureAlgorithms)
	case "requiredrsasize", "rsaminsize": // Red Hat called it so before OpenSSH had it
		if n, err := strconv.ParseUint(value, 10, 16); err != nil {
			e.beyond(l.name, l)
		} else if !e.set["requiredrsasize"] {
			e.set["requiredrsasize"] = true
			h.RequiredRSABits = int(n)
		}
	case "ciphers":
		e.text(l, &h.Ciphers)
	case "macs":
		e.text(l, &h.MACs)
	case "kexalgorithms":
		e.text(l, &h.KexAlgorithms)
	default:
		e.other(l)
	}
}

// other looks at the settings that this client does not follow itself.
func (e *evaluation) other(l *line) {
	value := strings.ToLower(l.args[0])
	switch l.key {
	case "proxycommand":
		// The one of ProxyCommand and ProxyJump that comes first counts.
		if !e.set["proxyjump"] && e.first(l) {
			e.set["proxyjump"] = true
			if value != "none" {
				e.beyond(l.name, l)
			}
		}
		return
	case "preferredauthentications":
		if e.first(l) && !slices.Contains(strings.Split(value, ","), "publickey") {
			e.beyond(l.name, l)
		}
		return
	case "gssapiauthentication":
		// Distributions set it for everybody, few of whom have a ticket.
		if !e.first(l) || !isYes(value) {
			return
		}
		if l.own {
			e.beyond(l.name, l)
		} else if e.config.mayHaveTicket() {
			e.host.IfRefused = append(e.host.IfRefused, reason(l.name, l))
		}
		return
	case "controlpath":
		// Another ssh may have logged in already, as only a person could.
		if e.first(l) && value != "none" {
			e.host.IfRefused = append(e.host.IfRefused, reason(l.name, l))
		}
		return
	case "usekeychain":
		e.yes(l, &e.host.UseKeychain)
		return
	case "ignoreunknown":
		if e.first(l) {
			e.unknown = strings.Split(strings.ToLower(l.args[0]), ",")
		}
		return
	}
	if harmless, ok := beyondUs(l.key); ok {
		if e.first(l) && !slices.Contains(harmless, value) {
			e.beyond(l.name, l)
		}
		return
	}
	if !slices.Contains(strings.Fields(ignored), l.key) && !matchHost(l.key, e.unknown) {
		e.beyond(l.name, l) // a newer ssh may know it
	}
}

// beyondUs reports whether ssh has to be run for a setting, and with which values not.
// It is no table, since whoever starts this program would wait until that is made.
func beyondUs(key string) (harmless []string, ok bool) {
	switch key {
	case "bindaddress", "bindinterface":
		return nil, true
	case "canonicalizehostname", "nohostauthenticationforlocalhost", "permitlocalcommand", "proxyusefdpass":
		return []string{"no", "false"}, true
	case "knownhostscommand", "pkcs11provider", "remotecommand", "revokedhostkeys", "smartcarddevice":
		return []string{"none"}, true
	case "pubkeyauthentication":
		return []string{"yes", "true", "unbound", "host-bound"}, true
	case "securitykeyprovider":
		return []string{"internal"}, true
	}
	return nil, false
}

// ignored are the settings that make no difference to a Git command: they are
// about terminals and forwardings, about speed, or about other ways to log in.
const ignored = `
	canonicaldomains canonicalizefallbacklocal canonicalizemaxdots canonicalizepermittedcnames
	challengeresponseauthentication channeltimeout checkhostip cipher clearallforwardings compression compressionlevel
	connectionattempts controlmaster controlpersist dynamicforward enableescapecommandline enablesshkeysign
	escapechar exitonforwardfailure fingerprinthash forkafterauthentication forwardagent forwardx11 forwardx11timeout
	forwardx11trusted gatewayports gssapiclientidentity gssapidelegatecredentials gssapikexalgorithms gssapikeyexchange
	gssapirenewalforcesrekey gssapiserveridentity gssapitrustdns hostbasedacceptedalgorithms hostbasedauthentication
	hostbasedkeytypes ipqos kbdinteractiveauthentication kbdinteractivedevices keepalive
	localcommand localforward loglevel logverbose numberofpasswordprompts obscurekeystroketiming
	passwordauthentication permitremoteopen protocol pubkeyacceptedalgorithms pubkeyacceptedkeytypes rekeylimit
	remoteforward requesttty rhostsrsaauthentication rsaauthentication sendenv serveralivecountmax
	serveraliveinterval sessiontype setenv skeyauthentication stdinnull streamlocalbindmask streamlocalbindunlink
	syslogfacility tag tcpkeepalive tisauthentication tunnel tunneldevice updatehostkeys useprivilegedport useroaming
	verifyhostkeydns versionaddendum visualhostkey warnweakcrypto xauthlocation`

// first reports whether a setting has no value yet, and notes that it has one now.
func (e *evaluation) first(l *line) bool {
	if e.set[l.key] {
		return false
	}
	e.set[l.key] = true
	return true
}

func (e *evaluation) text(l *line, to *string) {
	if e.first(l) {
		*to = l.args[0]
	}
}

func (e *evaluation) yes(l *line, to *bool) {
	if e.first(l) {
		*to = isYes(l.args[0])
	}
}

func (e *evaluation) list(l *line, to *[]string) {
	if !e.first(l) {
		return
	}
	*to = []string{}
	if !strings.EqualFold(l.args[0], "none") {
		*to = append(*to, l.args...)
	}
}

func (e *evaluation) strict(l *line) {
	if !e.first(l) {
		return
	}
	switch value := strings.ToLower(l.args[0]); value {
	case "yes", "true":
		e.host.StrictHostKeys = "yes"
	case "no", "false", "off":
		e.host.StrictHostKeys = "no"
	case "ask", "accept-new":
		e.host.StrictHostKeys = value
	default:
		e.beyond(l.name, l)
	}
}

// jump reads "[user@]host[:port],…" or ssh:// URLs.
func (e *evaluation) jump(l *line) {
	if e.set["proxyjump"] {
		return
	}
	e.set["proxyjump"], e.set["proxycommand"] = true, true
	if strings.EqualFold(l.args[0], "none") {
		return
	}
	for hop := range strings.SplitSeq(l.args[0], ",") {
		t, ok := parseJump(hop)
		if !ok {
			e.beyond(l.name, l)
			return
		}
		e.host.Jumps = append(e.host.Jumps, t)
	}
}

func parseJump(s string) (t Target, ok bool) {
	s = strings.TrimSuffix(strings.TrimPrefix(s, "ssh://"), "/")
	if i := strings.LastIndexByte(s, '@'); i >= 0 {
		t.User, s = s[:i], s[i+1:]
		if t.User == "" || t.User[0] == '-' {
			return t, false
		}
	}
	t.Host = s
	rest, bracketed := strings.CutPrefix(s, "[")
	if bracketed {
		if t.Host, rest, ok = strings.Cut(rest, "]"); !ok || rest != "" && rest[0] != ':' {
			return t, false
		}
		s = rest
	}
	if bracketed && rest != "" || !bracketed && strings.Count(s, ":") == 1 {
		host, port, _ := strings.Cut(s, ":")
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return t, false
		}
		if t.Port = int(n); !bracketed {
			t.Host = host
		}
	}
	return t, t.Host != "" && t.Host[0] != '-' && !strings.ContainsAny(t.Host, " \t/%")
}

// seconds reads a time as ssh does: "90", "1m30s", "2h".
func seconds(s string) (time.Duration, bool) {
	if strings.EqualFold(s, "none") {
		return 0, true
	}
	units := map[byte]time.Duration{'s': time.Second, 'm': time.Minute, 'h': time.Hour, 'd': 24 * time.Hour, 'w': 7 * 24 * time.Hour}
	total := time.Duration(0)
	for s != "" {
		end := 0
		for end < len(s) && '0' <= s[end] && s[end] <= '9' {
			end++
		}
		n, err := strconv.ParseUint(s[:end], 10, 24)
		if err != nil {
			return 0, false
		}
		unit := time.Second
		if end < len(s) {
			var ok bool
			if unit, ok = units[s[end]|0x20]; !ok {
				return 0, false
			}
			end++
		}
		total += time.Duration(n) * unit
		s = s[end:]
	}
	return total, true
}

func isYes(s string) bool { return strings.EqualFold(s, "yes") || strings.EqualFold(s, "true") }

// add keeps a list free of what it has already.
func add(list []string, s string) []string {
	if strings.EqualFold(s, "none") {
		if list == nil {
			list = []string{}
		}
		return list
	}
	if slices.Contains(list, s) {
		return list
	}
	return append(list, s)
}

func (e *evaluation) beyond(name string, l *line) {
	if r := reason(name, l); !slices.Contains(e.host.Beyond, r) {
		e.host.Beyond = append(e.host.Beyond, r)
	}
}

func reason(name string, l *line) string { return name + " (" + l.place() + ")" }
