package pcscd

// Client says who is at the other end of a Session, for limits, logs and reports.
type Client struct {
	PID int32  `json:"pid"`
	UID uint32 `json:"uid"`
	GID uint32 `json:"gid"`
	// Executable is the program's path or name, empty where it can't be told.
	Executable string `json:"executable,omitempty"`

	// started is when the process was started, in clock ticks since boot; 0 where that can't be told. With ended, the
	// process was gone already when its connection was accepted: PID may be another one's.
	started uint64
	ended   bool
}
