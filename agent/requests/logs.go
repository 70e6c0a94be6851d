package requests

import (
	"bytes"
	"context"
	"encoding/json"

	"rekindle/agent/applog"
	"rekindle/agent/link"
)

// Lines sent in one piece; a piece is a few tens of kilobytes at most unless lines are long.
const logBatch = 64

type logsRequest struct {
	Cursor int64 `json:"cursor"`
	Follow bool  `json:"follow"`
}

type logLine struct {
	Cursor int64  `json:"c"`
	At     int64  `json:"t"`
	Stream int    `json:"s"`
	Text   string `json:"d"`
}

// Logs serves `logs` from the ring.
func Logs(ring *applog.Ring) func(context.Context, *link.Stream, []byte) {
	return Streamed(func(ctx context.Context, stream *link.Stream, request logsRequest) error {
		if err := stream.Accept(); err != nil {
			return err
		}
		cursor := request.Cursor
		for {
			lines, next, open := ring.From(cursor, logBatch)
			if len(lines) == 0 {
				if !request.Follow || !open {
					stream.End()
					return nil
				}
				if err := ring.Wait(ctx, next); err != nil {
					return err
				}
				cursor = next
				continue
			}
			var text bytes.Buffer
			encoder := json.NewEncoder(&text)
			encoder.SetEscapeHTML(false)
			for _, line := range lines {
				if err := encoder.Encode(logLine{line.Cursor, line.At.UnixMilli(), line.Stream, line.Text}); err != nil {
					return err
				}
			}
			if _, err := stream.Write(text.Bytes()); err != nil {
				return err
			}
			cursor = next
		}
	})
}
