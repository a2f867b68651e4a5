package exporter

// reason says why a target could not be scraped: the reason label of
// testbed_guest_exporter_up.
type reason uint8

const (
	fine          reason = iota
	badAddress           // no address that a guest can have, or it is the host's own
	badPort              // no decimal number from 1 to 65535
	badPath              // no plain absolute path
	unreachable          // its network namespace can not be entered from here
	connect              // nobody answers at its address
	timeout              // the answer was not complete in time
	broken               // the answer was no HTTP, or ended early
	redirect             // redirects are not followed
	status               // another status than 200
	contentType          // neither the text format nor OpenMetrics
	encoding             // compressed, which was not asked for
	tooLarge             // over the limit of bytes, of the page or of the headers
	tooManySeries        // over a limit of series: of the page, the target or the node
	malformed            // not the format that it says it is
	reasons
)

var reasonNames = [reasons]string{
	"", "bad_address", "bad_port", "bad_path", "unreachable", "connect", "timeout", "broken", "redirect", "status",
	"content_type", "encoding", "too_large", "too_many_series", "malformed",
}

func (r reason) String() string { return reasonNames[r] }

// failure is why a scrape came to nothing.
type failure struct {
	reason reason
	err    error
	noWay  bool // of a dial: nothing came back from there
}

// omission says why a series of a page, or a target, was left out.
type omission uint8

const (
	reservedName  omission = iota // testbed_ and fanin_ are the pusher's own
	badName                       // a metric name that not every version of Prometheus takes
	badLabelName                  // a label name of that kind, or one that begins with two underscores
	repeatedLabel                 // one label twice
	tooManyLabels                 //
	tooLong                       // a name or value
	repeated                      // the page has the series twice
	ofPages
)

// Of whole pages, and of targets from badGuest on.
const (
	gone      = ofPages + iota // its target was gone when it was to be handed out
	overrun                    // nobody took the samples before
	badGuest                   // its guest has no possible name
	duplicate                  // another one on that port of the guest has another path
	overLimit                  // too many
	omissions
)

var omissionNames = [omissions]string{
	"reserved_name", "bad_name", "bad_label_name", "repeated_label", "too_many_labels", "too_long", "repeated",
	"gone", "overrun", "bad_guest", "duplicate", "limit",
}

func (o omission) String() string { return omissionNames[o] }
