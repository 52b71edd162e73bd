package identity

// Names are the names of users and groups by their numbers.
type Names struct{ Users, Groups map[uint32]string }

// maxNames bounds how many of either are read.
const maxNames = 4096

// ReadNames reads them. Of several names for one number the first counts; what
// can't be read has no names.
func ReadNames() Names {
	read := func(file string, fields int) map[uint32]string {
		names := map[uint32]string{}
		_ = each(file, fields, func(f []string) error {
			id, err := parseID(f[2])
			if _, known := names[id]; err == nil && !known && len(names) < maxNames {
				names[id] = f[0]
			}
			return nil
		})
		return names
	}
	return Names{Users: read("/etc/passwd", 7), Groups: read("/etc/group", 4)}
}
