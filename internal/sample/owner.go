package sample

// The identity labels. Only the gateway writes them.
const (
	Project   = "project"
	GuestName = "guest_name"
	GuestType = "guest_type"
	HostName  = "host_name"
)

// Owner is whose measurement a series is. Project, Guest and Kind are empty
// for a host's own series.
type Owner struct {
	Host, Project, Guest, Kind string
}

// IsHost reports whether the owner is a host itself and not a guest on it.
func (o Owner) IsHost() bool { return o.Guest == "" }

// Owner reads the identity labels. guest_type belongs to them only beside a
// guest_name; a host counts its guests by it.
func (l *Labels) Owner() *Owner {
	if l.owner != nil {
		return l.owner
	}
	o := &Owner{}
	for name, value := range l.Each {
		switch name {
		case HostName:
			o.Host = value
		case Project:
			o.Project = value
		case GuestName:
			o.Guest = value
		case GuestType:
			o.Kind = value
		}
	}
	if o.IsHost() {
		o.Kind = ""
	}
	return o
}
