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
			switch _, isText := value.(string); {
			case value == nil:
			case strings.EqualFold(key, "environment"):
				v[key] = without(value)
			case secretKey.MatchString(key) && isText:
				v[key] = leftOut
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
		return userInfo.ReplaceAllString(secretWord.ReplaceAllString(v, "${1}"+leftOut), "://"+leftOut+"@")
	}
	return v
}

// without leaves all texts out: of a map the keys stay, of NAME=VALUE the name.
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
	case string:
		if name, _, ok := strings.Cut(v, "="); ok {
			return name + "=" + leftOut
		}
		return leftOut
	case nil:
		return nil
	}
	return leftOut
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
