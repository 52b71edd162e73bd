//go:build linux

package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/hyperfleet/init/applets"
	"github.com/hyperfleet/init/applets/client"
	"github.com/hyperfleet/init/applets/nsguest"
	"github.com/hyperfleet/init/applets/wire"
)

// boots are what is measured of machines that only boot.
type boots struct {
	listening, ping, end, pss, touched []float64
	floorListening, floorPing          []float64
	reports                            []*wire.Boot
}

// bootRows boots the init and the floor in turns.
func (b *bench) bootRows() error {
	if !b.wants("boot", "") && !b.wants("memory", "") {
		return nil
	}
	rounds, limit := 60, 25*time.Second
	if b.short {
		rounds, limit = 6, 10*time.Second
	}
	var all boots
	began := time.Now()
	for i := range rounds + 1 {
		if i > leastRounds && time.Since(began) > limit {
			break
		}
		var one boots
		if err := one.bootInit(b.init, i%6 == 1); err != nil {
			return err
		}
		if err := one.bootFloor(b.floor); err != nil {
			return err
		}
		if i > 0 { // the first one reads from the disk
			all.add(one)
		}
	}
	for _, r := range all.rows() {
		if b.wants(r.Group, r.Name) {
			b.tell(r)
		}
	}
	return nil
}

func (b *boots) add(o boots) {
	for _, to := range []struct{ all, one *[]float64 }{
		{&b.listening, &o.listening}, {&b.ping, &o.ping}, {&b.end, &o.end}, {&b.pss, &o.pss}, {&b.touched, &o.touched},
		{&b.floorListening, &o.floorListening}, {&b.floorPing, &o.floorPing},
	} {
		*to.all = append(*to.all, *to.one...)
	}
	b.reports = append(b.reports, o.reports...)
}

func milliseconds(d time.Duration) float64 { return d.Seconds() * 1e3 }

// bootInit boots the init and ends it. Of some it also measures the memory, once
// they idle.
func (b *boots) bootInit(init string, idle bool) error {
	m, err := boot(map[string]string{applets.Binary: init}, initArgv("--power-off=poweroff"), nil)
	if err != nil {
		return err
	}
	defer m.end()
	listening, ping, err := m.answer()
	if err != nil {
		return err
	}
	b.listening, b.ping = []float64{milliseconds(listening)}, []float64{milliseconds(ping)}
	touched, err := touchedPages(m.pid())
	if err != nil {
		return err
	}
	b.touched = []float64{float64(touched) * 1024 / 1e6}
	ctx, cancel := context.WithTimeout(context.Background(), bootTime)
	defer cancel()
	info, err := client.New(client.Unix(nsguest.Path(m.pid(), guestSocket))).Info(ctx)
	if err != nil {
		return err
	}
	if info.Boot != nil {
		b.reports = []*wire.Boot{info.Boot}
	}
	if idle {
		time.Sleep(500 * time.Millisecond)
		sizes, err := nsguest.PSS(nsguest.Path(m.pid(), "/proc"))
		if err != nil {
			return err
		}
		sum := 0
		for _, kib := range sizes {
			sum += kib
		}
		b.pss = []float64{float64(sum) * 1024 / 1e6}
	}
	took, err := m.powerOff()
	b.end = []float64{milliseconds(took)}
	return err
}

// bootFloor boots the floor instead.
func (b *boots) bootFloor(floor string) error {
	m, err := boot(map[string]string{guestFloor: floor}, floorArgv(), nil)
	if err != nil {
		return err
	}
	defer m.end()
	listening, ping, err := m.answer()
	b.floorListening, b.floorPing = []float64{milliseconds(listening)}, []float64{milliseconds(ping)}
	if err == nil && m.log.Len() > 0 {
		err = fmt.Errorf("the floor says: %s", m.log.String())
	}
	return err
}

// touchedPages is what of the binary a process has in memory, in KiB.
func touchedPages(pid int) (kib int, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps", pid))
	if err != nil {
		return 0, err
	}
	ours := false
	for line := range strings.Lines(string(b)) {
		words := strings.Fields(line)
		switch {
		case !strings.HasSuffix(words[0], ":"):
			ours = len(words) > 5 && strings.HasSuffix(words[5], applets.Binary)
		case ours && words[0] == "Rss:":
			var n int
			_, err = fmt.Sscan(words[1], &n)
			kib += n
		}
	}
	return kib, err
}

// rows are what came of it.
func (b *boots) rows() []row {
	const floorName = "C, static"
	rows := []row{
		{Group: "boot", Name: "exec of /init → listening", Unit: "ms", Figure: summarize(b.listening),
			Floors: []floor{{floorName, summarize(b.floorListening)}}, Reach: atMost(1.5), Steps: medianSteps(b.reports)},
		{Group: "boot", Name: "exec of /init → first ping answered", Unit: "ms", Figure: summarize(b.ping),
			Floors: []floor{{floorName, summarize(b.floorPing)}}, Reach: atMost(2)},
		{Group: "boot", Name: "power-off, idle", Unit: "ms", Figure: summarize(b.end)},
		{Group: "memory", Name: "PID 1 touches of the binary at boot", Unit: "MB", Figure: summarize(b.touched), Reach: atMost(2)},
	}
	if len(b.pss) > 0 {
		rows = append(rows, row{Group: "memory", Name: "idle, all processes (PSS)", Unit: "MB", Figure: summarize(b.pss), Reach: atMost(6)})
	}
	for i := range rows {
		rows[i].Where = native
		rows[i].judge()
	}
	return rows
}

// medianSteps are the boot's own steps, and what came before and behind them.
func medianSteps(reports []*wire.Boot) (steps []bootStep) {
	if len(reports) == 0 {
		return nil
	}
	median := func(of func(*wire.Boot) float64) float64 {
		var all []float64
		for _, r := range reports {
			all = append(all, of(r))
		}
		slices.Sort(all)
		return all[len(all)/2]
	}
	for i, step := range reports[0].Steps {
		steps = append(steps, bootStep{step.Name, median(func(r *wire.Boot) float64 { return r.Steps[min(i, len(r.Steps)-1)].MS })})
	}
	return append(steps, bootStep{"ready", median(func(r *wire.Boot) float64 { return r.ReadyMS })})
}
