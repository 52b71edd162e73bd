package wire

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"
)

// TestLimitFields: every way in which the limits of a command are right.
func TestLimitFields(t *testing.T) {
	base := Exec{Cmd: []string{"x"}, Timeout: DefaultTimeout, MaxOutput: DefaultMaxOutput}
	mask := func(n uint32) func(*Exec) { return func(e *Exec) { e.Umask = &n } }
	limits := func(l ...Rlimit) func(*Exec) { return func(e *Exec) { e.Rlimits = l } }
	for fields, set := range map[string]func(*Exec){
		`"groups":null,"umask":null,"rlimits":null,"memory_max":null,"pids_max":null,"cpu_max":null,"grace":null`: func(*Exec) {},
		`"groups":["docker","27"]`: func(e *Exec) { e.Groups = []string{"docker", "27"} },
		`"groups":[]`:              func(e *Exec) { e.Groups = []string{} },
		`"umask":"027"`:            mask(0o27), `"umask":"0"`: mask(0), `"umask":"777"`: mask(0o777),
		`"rlimits":{}`:                                limits(),
		`"rlimits":{"nofile":[1024,2048]}`:            limits(Rlimit{7, 1024, 2048}),
		`"rlimits":{"rttime":[-1,-1],"cpu":[0, -1 ]}`: limits(Rlimit{0, 0, RlimitInfinity}, Rlimit{15, RlimitInfinity, RlimitInfinity}),
		`"rlimits":{"as":[1e3,9223372036854775807]}`:  limits(Rlimit{9, 1000, 1<<63 - 1}),
		`"memory_max":1048576`:                        func(e *Exec) { e.MemoryMax = 1 << 20 },
		`"pids_max":1`:                                func(e *Exec) { e.PidsMax = 1 },
		`"cpu_max":1500`:                              func(e *Exec) { e.CPUMax = 1500 },
		`"grace":2500`:                                func(e *Exec) { e.Grace = 2500 * time.Millisecond },
	} {
		want := base
		set(&want)
		if got, field := parse(`{"cmd":["x"],`+fields+`}`, exec); field != "" || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, %q; want %+v", fields, got, field, want)
		}
	}
	for i, name := range RlimitNames() {
		got, field := parse(`{"cmd":["x"],"rlimits":{"`+name+`":[1,2]}}`, exec)
		if field != "" || !reflect.DeepEqual(got.Rlimits, []Rlimit{{i, 1, 2}}) {
			t.Errorf("%s: %+v, %q", name, got.Rlimits, field)
		}
	}
}

// TestHostileLimits: what is wrong is refused by its name, and never read as
// something else. (FAULTS.md 1.10; 2: wrong types, integers, NUL, duplicate keys)
func TestHostileLimits(t *testing.T) {
	many := strings.Repeat(`"1",`, MaxGroups) + `"1"`
	wrong := map[string][]string{
		"groups":     {`"docker"`, `7`, `[7]`, `[null]`, `["a\u0000b"]`, `{"0":"a"}`, `[` + many + `]`},
		"umask":      {`27`, `""`, `"8"`, `"-1"`, `"1000"`, `"0o27"`, `"u=rwx"`, `" 27"`, `["27"]`, `"99999999999999999999"`},
		"memory_max": {`0`, `-1`, `1048575`, `1e300`, `"64m"`, `9007199254740993`, `1.5`, `[1048576]`, `true`},
		"pids_max":   {`0`, `-1`, `4194305`, `"max"`, `1.5`},
		"cpu_max":    {`0`, `9`, `-1000`, `1.5`, `1000001`, `"1.5"`, `[50000,100000]`},
		"grace":      {`-1`, `1.5`, `"2s"`, `1e300`, `9223372036854775807`},
		"rlimits": {
			`[]`, `"nofile=1"`, `7`, `{"nofile":1}`, `{"nofile":[1]}`, `{"nofile":[1,2,3]}`, `{"nofile":[2,1]}`, `{"nofile":[-1,5]}`,
			`{"nofile":["1","2"]}`, `{"nofile":[null,null]}`, `{"nofile":[-2,-1]}`, `{"nofile":[1.5,2]}`, `{"nofile":[1,1e300]}`,
			`{"nofile":[1,18446744073709551615]}`, `{"nofile":null}`, `{"nofile":{"soft":1,"hard":2}}`, `{"nofile":[[1],[2]]}`, `{"nofile":[]}`,
			`{"NOFILE":[1,2]}`, `{"rlimit_nofile":[1,2]}`, `{"7":[1,2]}`, `{"":[1,2]}`, `{"nofile\u0000":[1,2]}`,
			`{"nofile":[1,2],"nofile":[1,2]}`, `{"nofile":[1,2],"n\u006ffile":[3,4]}`, `{"nofile":[1,2],"core":7}`,
		},
	}
	for name, values := range wrong {
		for _, value := range values {
			if e, field := parse(fmt.Sprintf(`{"cmd":["x"],"%s":%s}`, name, value), exec); field != name {
				t.Errorf("%s %.60s: %+v, %q", name, value, e.Limits, field)
			}
		}
	}
}
