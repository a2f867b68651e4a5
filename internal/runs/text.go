package runs

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// clean takes the spaces at the ends off a text that people gave, and says
// what is wrong with the rest.
func clean(what, text string, most int) (string, error) {
	text = strings.TrimSpace(text)
	switch n := utf8.RuneCountInString(text); {
	case text == "":
		return "", fmt.Errorf("%s is empty: give it some text", what)
	case n > most:
		return "", fmt.Errorf("%s has %d characters: at most %d are kept", what, n, most)
	case !utf8.ValidString(text):
		return "", fmt.Errorf("%s is not valid UTF-8", what)
	}
	for _, r := range text {
		if !unicode.IsPrint(r) {
			return "", fmt.Errorf("%s has the character %U, which does not print: leave it out", what, r)
		}
	}
	return text, nil
}

// validID reports whether id has the form of one of [newID]: it names files.
func validID(id string) bool {
	if len(id) != idLength {
		return false
	}
	for i := range len(id) {
		if c := id[i]; (c < 'a' || c > 'z') && (c < '2' || c > '7') {
			return false
		}
	}
	return true
}

// check says what is wrong with a record that was read from the disk.
func (r *Run) check(id string) error {
	if r.ID != id || !validID(id) {
		return fmt.Errorf("its id is %q", r.ID)
	}
	if _, err := clean("its name", r.Name, MaxName); err != nil {
		return err
	}
	if _, err := clean("its project", r.Project, MaxName); err != nil {
		return err
	}
	if r.Ended != nil && *r.Ended < r.Started || r.Started <= 0 {
		return fmt.Errorf("it ends before it begins")
	}
	if len(r.Marks) > MaxMarks {
		return fmt.Errorf("it has %d marks", len(r.Marks))
	}
	for i, m := range r.Marks {
		if _, err := clean("a mark", m.Text, MaxText); err != nil {
			return err
		}
		if m.At < r.Started || i > 0 && m.At < r.Marks[i-1].At {
			return fmt.Errorf("its marks are not in order")
		}
	}
	return nil
}
