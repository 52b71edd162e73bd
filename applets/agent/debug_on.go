//go:build linux && hfdebug

package agent

import "runtime/debug"

// debugOperations end the agent as faults of its own would, outside of what the
// recovery around a request can catch.
func debugOperations() map[string]operation {
	ops := map[string]operation{}
	for name, fault := range map[string]func(){
		"debug_panic": func() { panic("on request") },
		"debug_nil":   func() { var p *int; *p = 1 },
		"debug_map":   writeConcurrently,
		"debug_stack": func() { debug.SetMaxStack(1 << 20); recurse(0) },
	} {
		ops[name] = func(*Agent, *request) error {
			go fault()
			select {}
		}
	}
	return ops
}

// writeConcurrently is what the runtime finds fatal in a map.
func writeConcurrently() {
	m := map[int]int{}
	for i := range 4 {
		go func() {
			for {
				m[i]++
			}
		}()
	}
}

func recurse(n int) int { return recurse(n+1) + n }
