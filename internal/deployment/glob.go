package deployment

import (
	"cmp"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// expand is [filepath.Glob], but says what it could not read. The paths are
// those of the other folders then.
func expand(pattern string) (paths []string, err error) {
	if _, err := filepath.Match(pattern, ""); err != nil {
		return nil, err
	}
	if !strings.ContainsAny(pattern, `*?[\`) {
		if _, err := os.Lstat(pattern); err != nil {
			return nil, unlessGone(err)
		}
		return []string{pattern}, nil
	}
	folder, name := filepath.Split(pattern)
	folders := []string{folder} // "/", or "" for the one we are in
	if above := strings.TrimRight(folder, "/"); above != "" {
		folders, err = expand(above)
	}
	for _, folder := range folders {
		entries, failed := os.ReadDir(cmp.Or(folder, "."))
		err = errors.Join(err, unlessGone(failed))
		for _, e := range entries {
			if ok, _ := filepath.Match(name, e.Name()); ok {
				paths = append(paths, filepath.Join(folder, e.Name()))
			}
		}
	}
	return paths, err
}

// unlessGone is nil for an error that says that something is not there.
func unlessGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil
	}
	return err
}
