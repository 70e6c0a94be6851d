package main

import (
	"encoding/binary"
	"encoding/json"
	"os"
)

const resultMagic = "RKRESULT"

// result is what the host learns of a successful build.
type result struct {
	Config    json.RawMessage `json:"config"`
	UsedBytes int64           `json:"usedBytes"`
	Origin    origin          `json:"origin"`
}

// origin is where the root disk came from and what is in it, for its provenance.
type origin struct {
	// RootFS is the digest of its listing.
	RootFS       string       `json:"rootfs"`
	Dependencies []dependency `json:"dependencies"`
	BuildKit     string       `json:"buildkit"`
	inventory
}

// writeResult replaces the start of the context disk: magic, length (big-endian), JSON.
func writeResult(disk string, r result) error {
	body, err := json.Marshal(r)
	if err != nil {
		return err
	}
	record := append([]byte(resultMagic), binary.BigEndian.AppendUint32(nil, uint32(len(body)))...)
	file, err := os.OpenFile(disk, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err := file.WriteAt(append(record, body...), 0); err != nil {
		return err
	}
	return file.Sync()
}
