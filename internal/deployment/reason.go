package deployment

import (
	"fmt"
	"strings"
)

// Reasons why a file, a deployment or a guest is not used.
const (
	ReasonTorn          = "torn"            // empty, cut off or otherwise no JSON
	ReasonMissing       = "missing"         // no such file
	ReasonUnreadable    = "unreadable"      // permission, input/output error, no answer in time
	ReasonNotRegular    = "not_regular"     // symbolic link, folder, FIFO, socket or device
	ReasonTooLarge      = "too_large"       // more than MaxFileBytes
	ReasonTooDeep       = "too_deep"        // nested deeper than MaxDepth
	ReasonTooManyGuests = "too_many_guests" // more than MaxGuests
	ReasonTooMany       = "too_many_deployments"
	ReasonMalformed     = "malformed"     // JSON of another shape
	ReasonDuplicateKey  = "duplicate_key" // an object has a key twice
	ReasonDuplicateName = "duplicate_name"
	ReasonBadName       = "bad_name"     // not [A-Za-z0-9][A-Za-z0-9_.-]{0,62}
	ReasonBadLocation   = "bad_location" // project_location is not an absolute path
	ReasonWrongName     = "wrong_name"   // the name inside is not the one outside
	ReasonUnknownKind   = "unknown_kind" // not exactly one of libvirt, docker, android
)

// Limits of what is read.
const (
	MaxFileBytes = 8 << 20
	MaxDepth     = 64
	MaxGuests    = 10_000 // in one state file
	MaxProjects  = 2_000
)

// Flaw is one guest or host of a file that is left out.
type Flaw struct {
	Reason string // one of the Reason constants
	Line   int    // in the file, from 1
	Name   string // the offending name, quoted, ASCII and cut to 80 bytes; for a terminal or a log, not for a page
}

// Error is what is wrong with a whole file.
type Error struct {
	Path   string
	Reason string // one of the Reason constants
	Line   int    // from 1; 0 when it has no place in the file
	Column int    // in bytes, from 1
	Offset int64  // in bytes, from 0
	Detail string // for people; may quote a few characters of the file
}

// Error is path:line:column: reason: detail.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Path)
	if e.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", e.Line, e.Column)
	}
	b.WriteString(": " + e.Reason)
	if e.Detail != "" {
		b.WriteString(": " + e.Detail)
	}
	return b.String()
}

// plain says the same without anything taken from the file.
func (e *Error) plain() string {
	text := map[string]string{
		ReasonTorn:          "is empty, cut off or no JSON",
		ReasonMissing:       "does not exist",
		ReasonUnreadable:    "can not be read",
		ReasonNotRegular:    "is a symbolic link or no regular file",
		ReasonTooLarge:      fmt.Sprintf("is larger than %d MiB", MaxFileBytes>>20),
		ReasonTooDeep:       fmt.Sprintf("is nested deeper than %d levels", MaxDepth),
		ReasonTooManyGuests: fmt.Sprintf("has more than %d guests", MaxGuests),
		ReasonMalformed:     "is JSON of another shape than expected",
		ReasonDuplicateKey:  "has a key twice in one object",
		ReasonBadLocation:   "gives no absolute project_location",
		ReasonWrongName:     "names another deployment than the one it belongs to",
	}[e.Reason]
	if text == "" {
		text = e.Reason
	}
	if e.Line > 0 {
		text += fmt.Sprintf(" (line %d, column %d)", e.Line, e.Column)
	}
	return text
}

// ValidName reports whether name may be that of a deployment, a guest or a
// host: [A-Za-z0-9][A-Za-z0-9_.-]{0,62}.
func ValidName(name string) bool { return validName(name, 63) }

// ValidRuntimeName is [ValidName] with up to 128 characters.
func ValidRuntimeName(name string) bool { return validName(name, 128) }

func validName(name string, most int) bool {
	if name == "" || len(name) > most {
		return false
	}
	for i := range len(name) {
		c := name[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		case i > 0 && (c == '_' || c == '.' || c == '-'):
		default:
			return false
		}
	}
	return true
}
