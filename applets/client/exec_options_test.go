package client

import (
	"io/fs"
	"reflect"
	"testing"
	"time"

	"github.com/hyperfleet/init/applets/internal/agenttest"
	"github.com/hyperfleet/init/applets/wire"
)

// TestExecOptions: what is asked for arrives, and nothing that is not.
func TestExecOptions(t *testing.T) {
	a := &agenttest.Agent{}
	c := New(Unix(agenttest.Listen(t, a.Serve)))
	mask := fs.FileMode(0o27)
	sent := uint32(0o27)
	for _, row := range []struct {
		options ExecOptions
		want    wire.Exec
	}{
		{ExecOptions{}, wire.Exec{}},
		{ExecOptions{Groups: []string{}, Umask: new(fs.FileMode)}, wire.Exec{Groups: []string{}, Umask: new(uint32)}},
		{
			ExecOptions{
				Groups: []string{"docker", "27"}, Umask: &mask, Grace: time.Second + 1,
				Rlimits:   map[string]Rlimit{"nofile": {1024, 2048}, "core": {0, Unlimited}},
				MemoryMax: 64 << 20, PidsMax: 7, CPUMax: 1500,
			},
			wire.Exec{
				Groups: []string{"docker", "27"}, Umask: &sent, Grace: 1001 * time.Millisecond,
				Limits: wire.Limits{
					Rlimits:   []wire.Rlimit{{Resource: 4, Hard: wire.RlimitInfinity}, {Resource: 7, Soft: 1024, Hard: 2048}},
					MemoryMax: 64 << 20, PidsMax: 7, CPUMax: 1500,
				},
			},
		},
	} {
		if _, err := c.Exec(t.Context(), ExecRequest{Cmd: []string{"echo"}, Options: row.options}); err != nil {
			t.Error(err)
		}
		row.want.Cmd, row.want.Timeout, row.want.MaxOutput = []string{"echo"}, wire.DefaultTimeout, wire.DefaultMaxOutput
		if got := a.LastExec(); !reflect.DeepEqual(got, row.want) {
			t.Errorf("%+v: the agent was asked for %+v, want %+v", row.options, got, row.want)
		}
		// A stream says the same.
		r := (&Command{Cmd: []string{"echo"}, Options: row.options}).request(true, false)
		f, err := wire.ParseFields(append(r.head.Bytes(), '}'))
		if err != nil {
			t.Fatal(err)
		}
		row.want.Stream, row.want.Timeout = true, 0
		if got, err := f.Exec(wire.DefaultMaxOutput); err != nil || !reflect.DeepEqual(got, row.want) {
			t.Errorf("%+v: a stream asks for %+v, %v; want %+v", row.options, got, err, row.want)
		}
	}
}
