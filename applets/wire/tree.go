package wire

// TarResult is how a stream of tar_get or tar_put ends.
type TarResult struct {
	Entries int64 `json:"entries"`
	Bytes   int64 `json:"bytes"` // of the archive, before it was compressed
	// Warned is how many things could not be kept: a file that changed or went
	// while it was read, an extended attribute that the filesystem does not take.
	Warned   int64    `json:"warned"`
	Warnings []string `json:"warnings,omitempty"` // the first of them, for people
	// SHA256 is of the archive as it passed, compressed or not, in hexadecimal; "" if
	// it was not asked for.
	SHA256 string `json:"sha256,omitempty"`
}

// MaxWarnings is how many warnings a TarResult holds.
const MaxWarnings = 20

// A Watch is the payload of a KindEvent frame of file_watch.
type Watch struct {
	Events []WatchEvent `json:"events,omitempty"`
	// Overflow tells that there was more than could be told: what is watched has to
	// be looked at anew.
	Overflow bool `json:"overflow,omitempty"`
}

// A WatchEvent is something that happened to a name.
type WatchEvent struct {
	Type string `json:"type"`
	// Name is relative to the path that is watched, and "" for that itself. What is
	// not UTF-8 in it reads U+FFFD, and NameBase64 holds every byte then.
	Name       string `json:"name"`
	NameBase64 []byte `json:"name_base64,omitempty"`
	From       string `json:"from,omitempty"` // the name before a rename
	FromBase64 []byte `json:"from_base64,omitempty"`
	IsDir      bool   `json:"is_dir"`
}
