// Command agent is PID 1 of every guest: it prepares the initramfs, serves the host's link, and runs the app as a
// container on the root disk.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"runtime"
	"runtime/debug"
	"time"

	"rekindle/agent/boot"
	"rekindle/agent/container"
	"rekindle/agent/guestexec"
	"rekindle/agent/imds"
	"rekindle/agent/link"
	"rekindle/agent/network"
	"rekindle/agent/power"
	"rekindle/agent/reaper"
	"rekindle/agent/requests"
	"rekindle/agent/restore"
	"rekindle/agent/rootdisk"
	"rekindle/agent/settle"
	"rekindle/agent/shell"
	"rekindle/agent/virtioport"
)

const (
	portName  = "rekindle.link"
	portLimit = 60 * time.Second
	// Lets the answer to `poweroff` leave the port before the machine does.
	lastWords = 50 * time.Millisecond
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("agent: ")
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "agent is the first process of a guest and nothing else")
		os.Exit(2)
	}
	// Every page the agent touches is one more in each machine's delta.
	runtime.GOMAXPROCS(min(2, runtime.NumCPU()))
	debug.SetGCPercent(50)
	log.Printf("ended: %v", run(context.Background()))
	power.Off()
}

func run(ctx context.Context) error {
	if err := boot.Prepare(); err != nil {
		return err
	}
	processes := reaper.New()
	go processes.Run(ctx)

	waiting, cancel := context.WithTimeout(ctx, portLimit)
	defer cancel()
	port, err := virtioport.Find(waiting, portName)
	if err != nil {
		return err
	}
	credentials, err := serveCredentials(ctx)
	if err != nil {
		return err
	}
	log.Printf("ready, generation %d", link.Generation)
	app := container.New(processes, rootdisk.MountPoint)
	connections := network.OpenConnections()
	restored := func(step link.Restore) error {
		credentials.Renew()
		return restore.Apply(step, connections)
	}
	return link.NewServer(port, operations(processes, app, credentials, connections).Handler(), restored).Serve()
}

type (
	mountRequest struct {
		Disk  string `json:"disk"`
		Check bool   `json:"check"`
	}
	mountAnswer struct {
		UsedBytes int64 `json:"usedBytes"`
	}
	startAnswer struct {
		PID int `json:"pid"`
	}
	waitAnswer struct {
		ExitCode int `json:"exitCode"`
	}
	quiesceRequest struct {
		DropCaches bool `json:"dropCaches"`
	}
	clockRequest struct {
		WallClockMs int64 `json:"wallClockMs"`
	}
	clockAnswer struct {
		BeforeMs int64 `json:"beforeMs"`
	}
	none = requests.None
)

// serveCredentials begins to serve the metadata address; a guest that cannot has no credentials but does its work.
func serveCredentials(ctx context.Context) (*imds.Service, error) {
	credentials, err := imds.New()
	if err != nil {
		return nil, err
	}
	if _, err := credentials.Listen(ctx); err != nil {
		log.Printf("the metadata service is not served: %v", err)
	}
	return credentials, nil
}

// operations is what the host can ask for.
func operations(processes *reaper.Reaper, app *container.App, credentials *imds.Service, connections *network.Connections) requests.Table {
	programs := &guestexec.Programs{Processes: processes}
	shells := &shell.Shells{Open: app.OpenShell}
	return requests.Table{
		"tunnel":    requests.Tunnel,
		"listening": requests.Listening,
		"logs":      requests.Logs(app.Log),
		"exec":      requests.Streamed(programs.Serve),
		"shell": requests.Streamed(func(ctx context.Context, stream *link.Stream, r shell.Request) error {
			return shells.Serve(ctx, stream, r)
		}),
		"poweroff": powerOff,
		"root.mount": requests.Call(func(ctx context.Context, r mountRequest) (mountAnswer, error) {
			used, err := rootdisk.Mount(ctx, processes, r.Disk, r.Check)
			return mountAnswer{used}, err
		}),
		"container.start": requests.Call(func(ctx context.Context, r container.Start) (startAnswer, error) {
			pid, err := app.Start(ctx, r)
			return startAnswer{pid}, err
		}),
		"container.wait": requests.Call(func(ctx context.Context, _ none) (waitAnswer, error) {
			code, err := app.Wait(ctx)
			return waitAnswer{code}, err
		}),
		"container.status": requests.Call(func(context.Context, none) (container.Status, error) {
			return app.Status(), nil
		}),
		"quiesce": requests.Call(func(ctx context.Context, r quiesceRequest) (none, error) {
			err := settle.Quiesce(ctx, rootdisk.MountPoint, r.DropCaches)
			if err := connections.Settle(); err != nil {
				log.Printf("quiesce: %v", err)
			}
			return none{}, err
		}),
		"credentials.offer": requests.Call(credentials.Offer),
		"credentials.set":   requests.Call(credentials.Set),
		"credentials.clear": requests.Call(credentials.Clear),
		"clock": requests.Call(func(_ context.Context, r clockRequest) (clockAnswer, error) {
			before := time.Now().UnixMilli()
			if r.WallClockMs <= 0 {
				return clockAnswer{}, link.Errorf(link.CodeInvalid, "wall clock %d", r.WallClockMs)
			}
			return clockAnswer{before}, restore.SetClock(r.WallClockMs)
		}),
	}
}

func powerOff(ctx context.Context, stream *link.Stream, body []byte) {
	requests.Call(func(context.Context, none) (none, error) { return none{}, nil })(ctx, stream, body)
	stream.WaitEnded()
	time.Sleep(lastWords)
	power.Off()
}
