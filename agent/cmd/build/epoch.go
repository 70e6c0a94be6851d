package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"time"
)

// epochDeclared finds an ARG that wants to be given SOURCE_DATE_EPOCH.
var epochDeclared = regexp.MustCompile(`(?im)^[ \t]*ARG[ \t]+(?:\S+[ \t]+)*SOURCE_DATE_EPOCH[ \t\\]*$`)

// epochOptions gives the build a time, for a Dockerfile that asks: that of the artifact's newest file. To others it would only do
// harm, as every WORKDIR that is new would be one more step that is not in the cache once the artifact changes.
func epochOptions() ([]string, error) {
	text, err := os.ReadFile(dockerfileInContext)
	if err != nil || !epochDeclared.Match(text) {
		return nil, err
	}
	newest, err := newestFile(contextDir, time.Now())
	if err != nil {
		return nil, err
	}
	return []string{"build-arg:SOURCE_DATE_EPOCH=" + strconv.FormatInt(newest.Unix(), 10)}, nil
}

// newestFile is when a file below the folder was last modified, not counting times to come and folders, which were made just now.
func newestFile(dir string, now time.Time) (time.Time, error) {
	newest := time.Unix(0, 0)
	err := filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		if at := info.ModTime(); at.After(newest) && !at.After(now) {
			newest = at
		}
		return nil
	})
	return newest, err
}
