package admission

// Reason says why something was refused; "" means that it was not.
type Reason string

// Refusals by policy: the claim is well formed, and this sender may not make
// it, or not now.
const (
	UnknownHost  Reason = "unknown_host"   // the sender is no host of the cluster
	UnknownGuest Reason = "unknown_guest"  // no deployment has such a guest
	NotActive    Reason = "not_active"     // its deployment is not up
	WrongHost    Reason = "wrong_host"     // the guest is placed on another host
	NotPlaced    Reason = "not_placed"     // the guest is placed on no host yet
	Ambiguous    Reason = "ambiguous_name" // guests of two deployments share the runtime name
	ReservedName Reason = "reserved_name"  // a name that only the gateway itself writes
	NoGuest      Reason = "no_guest_label" // a testbed_guest_ series that names no guest
	SeriesLimit  Reason = "series_limit"   // the sender or the gateway has too many series
	Histogram    Reason = "native_histogram"
	Future       Reason = "future"  // further ahead of the gateway's clock than is allowed
	TooOld       Reason = "too_old" // too old for any scraper to take
	OutOfOrder   Reason = "out_of_order"
)

// Refusals of form: the claim breaks the rules of the protocol or of the page
// it would stand on.
const (
	BadName       Reason = "bad_metric_name"
	BadLabelName  Reason = "bad_label_name"
	BadUTF8       Reason = "bad_utf8"
	Unsorted      Reason = "labels_unsorted"
	RepeatedLabel Reason = "label_repeated"
	TooManyLabels Reason = "too_many_labels"
	TooLong       Reason = "name_or_label_too_long"
)

// OfForm reports whether the claim itself is at fault, rather than who made
// it or when.
func (r Reason) OfForm() bool {
	switch r {
	case BadName, BadLabelName, BadUTF8, Unsorted, RepeatedLabel, TooManyLabels, TooLong:
		return true
	}
	return false
}
