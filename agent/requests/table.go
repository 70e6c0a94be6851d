// Package requests turns the link's streams into calls: which operations there are is one table, what they do lies in
// packages of their own.
package requests

import (
	"context"
	"encoding/json"
	"errors"

	"rekindle/agent/link"
)

// Table maps the op of a request to what serves it.
type Table map[string]func(ctx context.Context, stream *link.Stream, request []byte)

// Handler serves the table's operations.
func (t Table) Handler() link.Handler {
	return func(ctx context.Context, stream *link.Stream, request []byte) {
		var head struct {
			Op string `json:"op"`
		}
		if err := json.Unmarshal(request, &head); err != nil {
			stream.Reset(link.Errorf(link.CodeInvalid, "the request is not a JSON object"))
			return
		}
		serve := t[head.Op]
		if serve == nil {
			stream.Reset(link.Errorf(link.CodeInvalid, "no operation %.64q", head.Op))
			return
		}
		serve(ctx, stream, request)
	}
}

// Call serves an operation that is one JSON object in and one out.
func Call[Request, Response any](do func(context.Context, Request) (Response, error)) func(context.Context, *link.Stream, []byte) {
	return Streamed(func(ctx context.Context, stream *link.Stream, request Request) error {
		response, err := do(ctx, request)
		if err != nil {
			return err
		}
		body, err := json.Marshal(response)
		if err != nil {
			return err
		}
		if err := stream.Accept(); err != nil {
			return err
		}
		if _, err := stream.Write(body); err != nil {
			return err
		}
		stream.End()
		return nil
	})
}

// Streamed serves an operation that writes to the stream by itself. An error resets the stream.
func Streamed[Request any](do func(context.Context, *link.Stream, Request) error) func(context.Context, *link.Stream, []byte) {
	return func(ctx context.Context, stream *link.Stream, body []byte) {
		var request Request
		if err := json.Unmarshal(body, &request); err != nil {
			stream.Reset(link.Errorf(link.CodeInvalid, "%v", err))
			return
		}
		if err := do(ctx, stream, request); err != nil {
			var reason *link.Error
			if !errors.As(err, &reason) {
				reason = link.Errorf(link.CodeFailed, "%v", err)
			}
			stream.Reset(reason)
		}
	}
}

// None is the answer of an operation that has nothing to say.
type None struct{}
