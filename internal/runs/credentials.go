package runs

import (
	"bytes"
	"encoding/json"
	"regexp"
	"strings"
)

const leftOut = "(left out)"

var (
	secretKey  = regexp.MustCompile(`(?i)pass(word|wd|phrase)?$|passw|secret|token|credential|private_?key|api_?key|access_?key|ssh_.*key|auth|cookie|^user(name)?$`)
	secretWord = regexp.MustCompile(`(?i)([a-z0-9_-]*(?:passw(?:or)?d|passphrase|secret|token|credential|api[_-]?key|access[_-]?key)[a-z0-9_-]*\s*[=:]\s*)\S+`)
	secretFlag = regexp.MustCompile(`(?i)((?:^|\s)--?[a-z0-9_-]*(?:passw(?:or)?d|passphrase|secret|token|credential|api[_-]?key|access[_-]?key)[a-z0-9_-]*\s+)[^-\s]\S*`)
	userInfo   = regexp.MustCompile(`://[^/@\s]+@`)
)

// withoutCredentials is a state file with what looks like a credential left
// out: the values under keys that speak of one, those of environment
// variables, and such words inside other texts.
func withoutCredentials(state []byte) ([]byte, error) {
	decoder := json.NewDecoder(bytes.NewReader(state))
	decoder.UseNumber()
	var content any
	if err := decoder.Decode(&content); err != nil {
		return nil, err
	}
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(harmless(content)); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func harmless(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for key, value := range v {
			members, isMap := value.(map[string]any)
			switch {
			case isMap && (key == "testbed_guests" || key == "testbed_hosts"):
				for name := range members { // whatever it is called
					members[name] = harmless(members[name])
				}
			case strings.EqualFold(key, "environment"):
				v[key] = environment(value)
			case secretKey.MatchString(key):
				v[key] = without(value)
			default:
				v[key] = harmless(value)
			}
		}
	case []any:
		for i := range v {
			v[i] = harmless(v[i])
		}
		afterFlag(v)
	case string:
		if strings.Contains(v, "PRIVATE KEY-----") {
			return leftOut
		}
		for _, words := range []*regexp.Regexp{secretWord, secretFlag} {
			v = words.ReplaceAllString(v, "${1}"+leftOut)
		}
		return userInfo.ReplaceAllString(v, "://"+leftOut+"@")
	}
	return v
}

// without leaves all texts and numbers out. Of an object the keys stay.
func without(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for key := range v {
			v[key] = without(v[key])
		}
		return v
	case []any:
		for i := range v {
			v[i] = without(v[i])
		}
		return v
	case nil, bool:
		return v
	}
	return leftOut
}

// environment leaves the values of variables out: of NAME=VALUE in a list the
// name stays.
func environment(v any) any {
	list, ok := v.([]any)
	if !ok {
		return without(v)
	}
	for i := range list {
		text, _ := list[i].(string)
		if name, _, ok := strings.Cut(text, "="); ok {
			list[i] = name + "=" + leftOut
		} else {
			list[i] = without(list[i])
		}
	}
	return list
}

// afterFlag leaves out what follows a flag such as --password in a list of
// arguments.
func afterFlag(arguments []any) {
	for i := 1; i < len(arguments); i++ {
		flag, _ := arguments[i-1].(string)
		if _, isText := arguments[i].(string); isText && strings.HasPrefix(flag, "-") && !strings.Contains(flag, "=") && secretKey.MatchString(strings.TrimLeft(flag, "-")) {
			arguments[i] = leftOut
		}
	}
}
