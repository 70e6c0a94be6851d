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
