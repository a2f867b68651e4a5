package push

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/prometheus/common/config"
)

const (
	dialTimeout = 5 * time.Second
	idleTimeout = 90 * time.Second
)

// NewClient returns the HTTP client for a [Pusher]: no redirects, one
// connection used again and again, credentials read anew from their files for
// every request. A file that can not be read now is an error that names it.
func NewClient(c config.HTTPClientConfig, userAgent string) (*http.Client, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	var files []string
	if c.BasicAuth != nil {
		files = append(files, c.BasicAuth.UsernameFile, c.BasicAuth.PasswordFile)
	}
	if c.Authorization != nil {
		files = append(files, c.Authorization.CredentialsFile)
	}
	if c.OAuth2 != nil {
		files = append(files, c.OAuth2.ClientSecretFile)
	}
	for _, file := range files {
		if file == "" {
			continue
		}
		content, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("read credentials: %w", err)
		}
		if strings.TrimSpace(string(content)) == "" {
			return nil, fmt.Errorf("read credentials: %s is empty", file)
		}
	}
	c.FollowRedirects = false
	return config.NewClientFromConfig(c, "push",
		config.WithUserAgent(userAgent),
		config.WithIdleConnTimeout(idleTimeout),
		config.WithDialContextFunc((&net.Dialer{Timeout: dialTimeout}).DialContext))
}

// CheckURL says what is wrong with an address to push to.
func CheckURL(address string) error {
	u, err := url.Parse(address)
	if err != nil {
		if malformed := (*url.Error)(nil); errors.As(err, &malformed) {
			err = malformed.Err // without the address, which may hold a password
		}
		return fmt.Errorf("malformed URL: %w", err)
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return fmt.Errorf("%q is not http://HOST/PATH or https://HOST/PATH", u.Redacted())
	}
	return nil
}
