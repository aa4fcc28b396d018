package cluster

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
)

// A NodeAddress is what a client has to know of a node to use it.
type NodeAddress struct {
	Name    DeviceName `json:"name"`
	SSH     string     `json:"ssh"`            // host:port
	HTTP    string     `json:"http,omitempty"` // host:port, always with TLS
	Region  string     `json:"region,omitempty"`
	HostKey string     `json:"host_key"` // an authorized_keys line
}

// A NodeList is the nodes of a cluster that serve clients, by name.
type NodeList struct {
	Cluster string        `json:"cluster"` // the cluster's id
	Nodes   []NodeAddress `json:"nodes"`
}

// Hash names the list: 16 hexadecimal digits. A client tells it to ask whether
// the list that it has is still the list; nothing depends on it for safety.
func (l NodeList) Hash() string {
	text, err := json.Marshal(l)
	if err != nil {
		return "" // strings can always be encoded
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:8])
}
