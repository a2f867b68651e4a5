// Package android measures the Android emulators of this node. An emulator is
// a process, and all that is measured of it comes from its files in /proc,
// which never wait for it.
//
// # What counts as an emulator
//
// A process whose program is called qemu-system-* (or emulator64-* and the
// like, as the engines of old were called), or emulator, the launcher that
// becomes or starts an engine, and whose arguments name an AVD: -avd NAME or
// @NAME, the forms that the emulator takes, before any -qemu. The name of the
// program is the kernel's word (/proc/PID/exe); where that may not be read it
// is the process' own (/proc/PID/comm). Of a launcher and its engine, and of
// several processes of one AVD, one is measured: an engine rather than a
// launcher, then the oldest.
//
// Anybody can start a program of that name with any arguments. So a process is
// believed only when its real user is root, this process' own or one of
// [Source.Users], or when it is in the network namespace that is called
// NAME-nmspc, where only root can have put it. Processes in a PID namespace of
// their own are containers' and never believed. The arguments of others are
// not even read.
//
// # What is measured
//
// Processor time, threads, start, resident memory and swap of the process, what
// it reads from and writes to disks (where this process may know), and the
// interfaces of its network namespace. Those are the guest's own view: the
// emulator sends and receives for the guest through sockets in the namespace,
// so what leaves the namespace is what the guest sends. A process in the host's
// network namespace has no interfaces of its own: what is there are the host's,
// and they are absent.
//
// How many processors and how much memory the AVD has is read where the
// emulator itself reads it (-cores, -memory, hardware-qemu.ini, config.ini).
//
// How much of its memory a guest uses only the guest knows. With [Source.ADB]
// it is asked, through the adb server of its own network namespace; without,
// memory in use is absent.
package android

import (
	"log/slog"
	"time"

	"fanin/internal/guest"
)

// DefaultADBAddress is where an adb server listens.
const DefaultADBAddress = "127.0.0.1:5037"

// Source is the sampler's source "android". Its zero value is ready; the
// fields must not change after the first call.
type Source struct {
	ProcRoot string        // where the host's procfs is mounted; "" for /proc
	AVDHome  string        // the folder of the AVDs; "" for what each emulator's environment says
	Users    []uint32      // who is believed beside root and this process' own user
	Rescan   time.Duration // how often emulators are looked for; 0 for 5 s
	Limit    int           // emulators at the most; 0 for 500

	ADB         bool          // ask the guests for their memory
	ADBAddress  string        // of the adb server in each network namespace; "" for DefaultADBAddress
	ADBInterval time.Duration // how often; 0 for 10 s
	ADBDeadline time.Duration // for all the guests of one server; 0 for 3 s

	Log *slog.Logger // nil: silent

	inner
}

// Name is "android".
func (s *Source) Name() string { return guest.Android }
