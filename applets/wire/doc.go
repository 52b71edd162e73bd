// Package wire is the protocol that a host speaks with the agent of a guest:
// its types and its codec. PROTOCOL.md is the contract; this is the short form.
//
// A request is one line of JSON, an object, ended by "\n". The reply is one line
// of JSON:
//
//	{"operation":"file_stat","path":"/etc/hostname"}
//	{"success":true,"data":{"path":"/etc/hostname","size":11,…}}
//	{"success":false,"error":"path: /etc/hostname: no such file or directory","code":"ENOENT"}
//
// After the reply the agent closes the connection, unless the request said
// "keep_alive":true. code is always the name of a Linux errno.
//
// File content and command input travel as base64 inside those lines and may be
// larger than memory. [Reader] therefore hands such a string to a writer while
// the line is still coming in, and keeps only the rest of the line.
//
// The package imports neither os nor net: it works on any io.Reader and
// io.Writer.
package wire

import "time"

// Version is the number of the protocol, as info reports it.
const Version = 1

// Port is the vsock port that an agent listens on.
const Port = 52

// What a field may hold, and what it holds when it is missing.
const (
	DefaultTimeout   = 30 * time.Second // of exec
	MaxTimeout       = 10 * 365 * 24 * time.Hour
	DefaultMaxOutput = 16 << 20 // bytes of each of stdout and stderr
)

// The operations.
const (
	OpPing       = "ping"
	OpInfo       = "info"
	OpFileRead   = "file_read"
	OpFileWrite  = "file_write"
	OpFileStat   = "file_stat"
	OpFileDelete = "file_delete"
	OpExec       = "exec"
	OpForward    = "forward"
	OpPS         = "ps"
	OpListen     = "listen"
	OpAccept     = "accept"
	OpLogs       = "logs"
	OpStats      = "stats"

	OpFileGet      = "file_get"
	OpFilePut      = "file_put"
	OpFileList     = "file_list"
	OpFileMkdir    = "file_mkdir"
	OpFileRename   = "file_rename"
	OpFileCopy     = "file_copy"
	OpFileChmod    = "file_chmod"
	OpFileChown    = "file_chown"
	OpFileSymlink  = "file_symlink"
	OpFileReadlink = "file_readlink"
	OpFileTruncate = "file_truncate"
	OpFileHash     = "file_hash"
	OpFileWatch    = "file_watch"
	OpTarGet       = "tar_get"
	OpTarPut       = "tar_put"

	OpSessionList   = "session_list"
	OpSessionAttach = "session_attach"
	OpSessionSignal = "session_signal"
	OpSessionWait   = "session_wait"
	OpSessionRemove = "session_remove"
)
