//go:build linux

package agent

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/hyperfleet/init/applets/client"
	"github.com/hyperfleet/init/applets/wire"
)

const testStat = `cpu  100 20 30 4000 50 6 7 8 90 10
cpu0 50 10 15 2000 25 3 3 4 45 5
cpu1 50 10 15 2000 25 3 4 4 45 5
intr 12345 0 0
ctxt 1
btime 1795445459
processes 2986455
procs_running 7
procs_blocked 2
softirq 1 2 3
`

func TestParseStatFile(t *testing.T) {
	c, p := parseStatFile(testStat)
	if want := (wire.CPUStats{
		CPUs: 2, UserMS: 1000, NiceMS: 200, SystemMS: 300, IdleMS: 40000, IOWaitMS: 500, IRQMS: 60, SoftIRQMS: 70, StealMS: 80, TotalMS: 42210,
	}); c != want {
		t.Errorf("%+v, want %+v", c, want)
	}
	if want := (wire.ProcessStats{Running: 7, Blocked: 2, Forks: 2986455}); p != want {
		t.Errorf("%+v, want %+v", p, want)
	}
	if c, _ := parseStatFile("cpu\ncpu  1 x -3\n"); c.UserMS != 10 || c.TotalMS != 10 {
		t.Errorf("%+v", c)
	}
}

func TestParseLoadavg(t *testing.T) {
	if load, threads := parseLoadavg("0.10 1.25 33.21 4/244 15043\n"); load != [3]float64{0.1, 1.25, 33.21} || threads != 244 {
		t.Error(load, threads)
	}
	for _, text := range []string{"", "1 2 3", "NaN Inf -1 x 5"} {
		if load, threads := parseLoadavg(text); load != [3]float64{} || threads != 0 {
			t.Errorf("%q: %v %v", text, load, threads)
		}
	}
}

func TestParseMeminfo(t *testing.T) {
	got := parseMeminfo("MemTotal:       24684084 kB\nMemFree:  1 kB\nMemAvailable:  2 kB\nBuffers: 3 kB\nCached: 4 kB\nSwapCached: 99 kB\nDirty: 6 kB\nShmem: 5 kB\nSwapTotal: 7 kB\nSwapFree: 8 kB\nHugePages_Total: 9\nCmaFree:\n")
	if want := (wire.MemoryStats{Total: 24684084 << 10, Free: 1 << 10, Available: 2 << 10, Buffers: 3 << 10, Cached: 4 << 10, Shared: 5 << 10, Dirty: 6 << 10, SwapTotal: 7 << 10, SwapFree: 8 << 10}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

func TestParsePressure(t *testing.T) {
	got := parsePressure("some avg10=86.93 avg60=77.46 avg300=75.05 total=6022193665\nfull avg10=0.50 avg60=0.00 avg300=0.00 total=1999\n")
	want := wire.Pressure{Some: wire.PressureTime{Avg10: 86.93, TotalMS: 6022193}, Full: wire.PressureTime{Avg10: 0.5, TotalMS: 1}}
	if got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

func TestParseDisks(t *testing.T) {
	const text = `   7       0 loop0 1 2 3 4 5 6 7 8 9 10 11
 254       0 vda 1829403 356390 57111154 4739663 480025 542236 149007000 1297528 3 604368 6155349 475284 18 147557576 110837 48648 7320
 254       1 short 1 2 3
`
	got := parseDisks(text, func(name string) bool { return name != "loop0" })
	want := []wire.DiskStats{{
		Name: "vda", Reads: 1829403, ReadBytes: 57111154 * 512, ReadMS: 4739663, Writes: 480025, WriteBytes: 149007000 * 512, WriteMS: 1297528, InFlight: 3, BusyMS: 604368,
	}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
}

func TestParseNetDev(t *testing.T) {
	const text = `Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16
eth0:1:9335305906   52324    0    0    0     0          0         0  3608657   35429    0    0    0     0       0          0
broken: 1 2
`
	want := []wire.NetworkStats{
		{Name: "lo", RxBytes: 1, RxPackets: 2, RxErrors: 3, RxDrops: 4, TxBytes: 9, TxPackets: 10, TxErrors: 11, TxDrops: 12},
		{Name: "eth0:1", RxBytes: 9335305906, RxPackets: 52324, TxBytes: 3608657, TxPackets: 35429},
	}
	if got := parseNetDev(text); !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
}

// TestSafeMounts: nothing is asked that may wait for somebody who is gone.
func TestSafeMounts(t *testing.T) {
	const text = `1 1 0:2 / / rw - rootfs none rw
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw
22 27 0:21 / /proc rw,nosuid shared:5 master:1 - proc proc rw
23 27 0:22 / /run rw - tmpfs tmpfs rw
30 27 254:0 /etc /bound rw - ext4 /dev/vda rw
31 27 254:16 / /data\040disk rw - ext4 /dev/vdb rw
32 27 0:40 / /net rw - nfs4 server:/x rw
33 32 254:32 / /net/below rw - ext4 /dev/vdc rw
34 27 254:48 / /network rw - xfs /dev/vdd rw
35 27 0:41 / /user rw - fuse.sshfs host: rw
36 27 8:1 / /ntfs rw - fuseblk /dev/sda1 rw
37 27 254:64 / /over rw - ext4 /dev/vde rw
38 37 0:42 / /over rw - virtiofs tag rw
39 27 0:43 / /layers rw - overlay overlay rw
40 27 0:44 / /tree rw - btrfs /dev/vdf rw
41 27 0:45 / /strange rw - somefs none rw
nonsense
`
	var got []string
	for _, m := range safeMounts(parseMountinfo(text)) {
		got = append(got, m.target+" "+m.fstype+" "+m.source)
	}
	want := []string{"/ ext4 /dev/vda", "/data disk ext4 /dev/vdb", "/network xfs /dev/vdd", "/layers overlay overlay", "/tree btrfs /dev/vdf"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	remote := "27 1 0:40 / / rw - 9p root rw\n28 27 254:0 / /data rw - ext4 /dev/vda rw\n"
	if got := safeMounts(parseMountinfo(remote)); len(got) > 0 {
		t.Errorf("below a root on a network: %+v", got)
	}
}

func FuzzStats(f *testing.F) {
	for _, text := range []string{testStat, "0.10 1.25 33.21 4/244 15043\n", "MemTotal: 1 kB\n", "some avg10=1.00 total=5\n", "254 0 vda 1 2 3 4 5 6 7 8 9 10 11\n", "lo: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n", "27 1 254:0 / / rw - ext4 /dev/vda rw\n"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var st wire.Stats
		st.CPU, st.Processes = parseStatFile(text)
		st.CPU.Load, st.Processes.Threads = parseLoadavg(text)
		st.Memory = parseMeminfo(text)
		st.Pressure = &wire.PressureStats{CPU: parsePressure(text)}
		st.Disks = parseDisks(text, func(string) bool { return true })
		st.Network = parseNetDev(text)
		safeMounts(parseMountinfo(text))
		if _, err := json.Marshal(st); err != nil {
			t.Error(err)
		}
	})
}

// TestStats: a live agent tells about this machine and itself.
func TestStats(t *testing.T) {
	l := serve(t, testLimits())
	c := client.New(client.Unix(l.socket))
	st, err := c.Stats(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	a := st.Agent
	if st.CPU.CPUs == 0 || st.CPU.TotalMS == 0 || st.Memory.Total == 0 || st.UptimeMS == 0 || st.TimeMS == 0 || st.Processes.Processes == 0 ||
		st.Processes.Threads == 0 || a.PID != os.Getpid() || a.RSS == 0 || a.Goroutines == 0 || a.Connections != 1 || len(st.Network) == 0 {
		t.Errorf("%+v", st)
	}
}

// TestStatsEvery: a stream of them, the first at once.
func TestStatsEvery(t *testing.T) {
	l := serve(t, testLimits())
	c := client.New(client.Unix(l.socket))
	n, before := 0, 0.0
	for st, err := range c.StatsEvery(t.Context(), 20*time.Millisecond) {
		if err != nil {
			t.Fatal(err)
		}
		if st.TimeMS <= before {
			t.Errorf("%v after %v", st.TimeMS, before)
		}
		if before = st.TimeMS; n == 3 {
			break
		}
		n++
	}
	for range c.StatsEvery(t.Context(), 24*time.Hour) {
		break // the first is there at once
	}
	if r := call(t, l.socket, object{"operation": "stats", "interval_ms": 9}); r.Code != "EINVAL" {
		t.Errorf("%+v", r)
	}
	eventually(t, "the streams end with their clients", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return len(l.conns) == 0
	})
}

// TestStatsExample: PROTOCOL.md shows every field of stats, and no other.
func TestStatsExample(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "..", "PROTOCOL.md"))
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^> {"operation":"stats"}\n< {"success":true,"data":(.*)}$`).FindSubmatch(page)
	if m == nil {
		t.Fatal("there is no example")
	}
	var st wire.Stats
	d := json.NewDecoder(bytes.NewReader(m[1]))
	d.DisallowUnknownFields()
	if err := d.Decode(&st); err != nil {
		t.Fatal(err)
	}
	again, err := json.Marshal(st)
	if err != nil || string(again) != strings.TrimSpace(string(m[1])) {
		t.Errorf("the example says\n%s\nand holds\n%s", m[1], again)
	}
}

func BenchmarkStats(b *testing.B) {
	a := serve(b, testLimits())
	for b.Loop() {
		a.sample()
	}
}
