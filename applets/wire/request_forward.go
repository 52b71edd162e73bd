package wire

import "slices"

// Forward are the fields of forward.
type Forward struct {
	Network string // tcp, tcp4, tcp6 or unix
	Address string // HOST:PORT, or the path of a Unix socket
}

// Forward reads the fields of forward.
func (f Fields) Forward() (Forward, error) {
	r := fieldReader{f: f}
	w := Forward{Network: r.string("network"), Address: r.string("address")}
	if w.Network == "" {
		w.Network = "tcp"
	}
	switch {
	case !slices.Contains([]string{"tcp", "tcp4", "tcp6", "unix"}, w.Network):
		r.fail("network", "must be tcp, tcp4, tcp6 or unix")
	case w.Network == "unix":
		w.Address = r.path("address", true) // not an abstract name, which has no mode to guard it
	case w.Address == "":
		r.fail("address", "is missing")
	}
	return w, r.err
}
