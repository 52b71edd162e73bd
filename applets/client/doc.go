// Package client talks to the agent of a microVM: it reads and writes files in
// the guest and runs commands there.
//
// A [Client] is made for a [Target]. Nothing happens until an operation is
// called; each uses a connection of its own, so a Client can be used by any
// number of goroutines and survives a restart of the guest.
//
// The package's example is a whole program; those of the operations run against a
// real agent.
//
// # Contexts
//
// An operation lasts until the agent has replied or its context ends. A context
// that ends closes the connection, and the agent kills the command that it ran
// for it; a file that was being written keeps its old content. Operations have
// no time limit of their own: give the context a deadline. With one, a guest that is
// paused is waited for; without, Linux gives up connecting to it after 2 s.
//
// # Errors
//
// What the agent refuses or fails to do is an [*Error]. It carries the name of a
// Linux errno and satisfies errors.Is with [fs.ErrNotExist], [fs.ErrExist],
// [fs.ErrPermission] and the constants of package syscall. An agent that can't be
// reached is a [*DialError]. A reply that is cut short is
// [io.ErrUnexpectedEOF]. None of them leaves a half-done file in the guest.
//
// # Files
//
// [Client.Get] and [Client.Put] move files of any size, whole or in part, as they
// are; [Client.ReadFile] and [Client.WriteFile] are for agents that do not have
// them, and for up to 1 GiB. [Client.List] walks through directories.
//
// # Trees
//
// [Client.CopyTo] and [Client.CopyFrom] copy directories, [Client.TarPut] and
// [Client.TarGet] move archives of them, and [Client.Watch] tells what changes.
// Neither side can make the other write outside of the directory that is named.
//
// # Limits
//
// Content and output stream in both directions: memory does not grow with them.
// A reply may hold 8 MiB (wire.MaxLine) besides. Names and arguments must be
// valid UTF-8, as JSON carries nothing else; content may be any bytes.
package client
