package wire

// FileHeader is the data of the line that begins a file_get.
type FileHeader struct {
	Size  int64  `json:"size"` // bytes, all of it; 0 for files of the kernel's
	Mode  string `json:"mode"` // as in Stat
	UID   uint32 `json:"uid"`
	GID   uint32 `json:"gid"`
	MTime string `json:"mtime"` // UTC, as 2006-01-02T15:04:05.999999999Z
}

// PutHeader is the data of the line that begins a file_put.
type PutHeader struct {
	// Offset is how many bytes an earlier upload left: the data frames go on
	// behind them.
	Offset int64 `json:"offset"`
}

// FileSum is the result of file_get, of file_put and of file_hash.
type FileSum struct {
	Size   int64  `json:"size"`             // bytes
	SHA256 string `json:"sha256,omitempty"` // hexadecimal; "" if it was not asked for
}

// The types of an [Entry].
const (
	TypeFile      = "file"
	TypeDirectory = "directory"
	TypeSymlink   = "symlink"
	TypeFIFO      = "fifo"
	TypeSocket    = "socket"
	TypeBlock     = "block"
	TypeCharacter = "character"
)

// An Entry is what file_list tells of one name.
type Entry struct {
	// Name is relative to the directory that is listed. What is not UTF-8 in it
	// reads U+FFFD, and NameBase64 holds every byte then.
	Name       string `json:"name"`
	NameBase64 []byte `json:"name_base64,omitempty"`
	Type       string `json:"type"`
	Size       int64  `json:"size"` // bytes
	Mode       string `json:"mode"` // as in Stat
	UID        uint32 `json:"uid"`
	GID        uint32 `json:"gid"`
	MTime      string `json:"mtime"` // as in FileHeader
	Link              // of a symlink
	// Error is why the content of a directory can't be listed: the name of a
	// Linux errno.
	Error string `json:"error,omitempty"`
}

// A Link is what a symbolic link holds, and the data of file_readlink's reply.
type Link struct {
	Target       string `json:"target,omitempty"`
	TargetBase64 []byte `json:"target_base64,omitempty"` // if it is not UTF-8
}

// List is the data of file_list's reply. The agent writes it as it goes.
type List struct {
	Entries []Entry `json:"entries"`
	// Next is the request's "after" for the next page; "" if this is the last.
	Next string `json:"next"`
}

// Removed is the data of file_delete's reply if it was recursive.
type Removed struct {
	Removed int64 `json:"removed"` // names
}
