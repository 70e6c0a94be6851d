package requests

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"os"
	"strconv"
	"strings"

	"rekindle/agent/link"
	"rekindle/agent/tunnel"
)

type portRequest struct {
	Port int `json:"port"`
}

// Tunnel serves `tunnel`.
func Tunnel(ctx context.Context, stream *link.Stream, body []byte) {
	var request portRequest
	if err := json.Unmarshal(body, &request); err != nil {
		stream.Reset(link.Errorf(link.CodeInvalid, "%v", err))
		return
	}
	tunnel.Serve(ctx, stream, request.Port)
}

type listeningAnswer struct {
	Listening bool `json:"listening"`
}

// Listening serves `listening`: looked up, not tried, because a connection is something an app may count or log.
var Listening = Call(func(_ context.Context, request portRequest) (listeningAnswer, error) {
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		found, err := listensIn(table, request.Port)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return listeningAnswer{}, err
		}
		if found {
			return listeningAnswer{true}, nil
		}
	}
	return listeningAnswer{false}, nil
})

func listensIn(table string, port int) (bool, error) {
	file, err := os.Open(table)
	if err != nil {
		return false, err
	}
	defer file.Close()
	rows := bufio.NewScanner(file)
	for rows.Scan() {
		if rowListens(rows.Text(), port) {
			return true, nil
		}
	}
	return false, rows.Err()
}

// rowListens looks for a socket in state LISTEN on the port, bound to any address or to the loopback one.
func rowListens(row string, port int) bool {
	fields := strings.Fields(row)
	if len(fields) < 4 || fields[3] != "0A" {
		return false
	}
	address, hexPort, ok := strings.Cut(fields[1], ":")
	if !ok {
		return false
	}
	switch address {
	case "00000000", "0100007F", strings.Repeat("0", 32), strings.Repeat("0", 24) + "01000000",
		"0000000000000000FFFF00000100007F":
	default:
		return false
	}
	n, err := strconv.ParseUint(hexPort, 16, 16)
	return err == nil && int(n) == port
}
