package rig

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"
)

// Tab is a page in a headless Chromium of its own.
type Tab struct {
	t   testing.TB
	ctx context.Context

	mu       sync.Mutex
	console  []string
	requests []string
	bytes    float64 // on the wire, headers included
}

// Chromium opens a window of this size, in CSS pixels.
func Chromium(t testing.TB, width, height int) *Tab {
	t.Helper()
	Need(t, "chromium")
	options := append([]chromedp.ExecAllocatorOption{}, chromedp.DefaultExecAllocatorOptions[:]...)
	options = append(options,
		chromedp.ExecPath("chromium"), chromedp.NoSandbox, chromedp.DisableGPU, chromedp.UserDataDir(t.TempDir()), chromedp.WindowSize(width, height),
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true), chromedp.Flag("hide-scrollbars", true),
	)
	allocator, stop := chromedp.NewExecAllocator(context.Background(), options...)
	ctx, cancel := chromedp.NewContext(allocator)
	t.Cleanup(func() {
		_ = chromedp.Cancel(ctx)
		cancel()
		stop()
	})
	tab := &Tab{t: t, ctx: ctx}
	if err := chromedp.Do(ctx); err != nil {
		t.Fatalf("start chromium: %v", err)
	}
	if err := chromedp.Listen(ctx, tab.hear); err != nil {
		t.Fatal(err)
	}
	go func() {
		for m, err := range chromedp.Console(ctx) {
			if err != nil {
				return
			}
			tab.mu.Lock()
			tab.console = append(tab.console, fmt.Sprintf("%s: %s %s", m.Type, m.Text, m.URL))
			tab.mu.Unlock()
		}
	}()
	tab.Do(chromedp.EmulateViewport(int64(width), int64(height)))
	if _, err := chromedp.Call(ctx, network.Enable, network.EnableParams{}); err != nil {
		t.Fatal(err)
	}
	return tab
}

func (b *Tab) hear(ev any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch ev := ev.(type) {
	case *network.EventRequestWillBeSent:
		b.requests = append(b.requests, ev.Request.URL)
	case *network.EventLoadingFinished:
		b.bytes += ev.EncodedDataLength
	}
}

// Do does what is asked, within a minute.
func (b *Tab) Do(steps ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, 60*time.Second)
	defer cancel()
	if err := chromedp.Do(ctx, steps...); err != nil {
		b.t.Fatalf("in the browser: %v\nconsole: %v", err, b.Console())
	}
}

// Ask evaluates an expression of JavaScript.
func Ask[T any](b *Tab, expression string) T {
	b.t.Helper()
	v, err := TryAsk[T](b, expression)
	if err != nil {
		b.t.Fatalf("%s: %v\nconsole: %v", expression, err, b.Console())
	}
	return v
}

// TryAsk is [Ask] for what may fail.
func TryAsk[T any](b *Tab, expression string) (T, error) {
	ctx, cancel := context.WithTimeout(b.ctx, 60*time.Second)
	defer cancel()
	return chromedp.Run(ctx, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
}

// Until waits until an expression is true.
func (b *Tab) Until(d time.Duration, expression string) {
	b.t.Helper()
	Eventually(b.t, d, func() error {
		ok, err := TryAsk[bool](b, expression)
		if err == nil && !ok {
			err = fmt.Errorf("not so: %s\nconsole: %v", expression, b.Console())
		}
		return err
	})
}

// Context is for actions of chromedp.
func (b *Tab) Context() context.Context { return b.ctx }

// Console is what the page wrote to it, errors and refused resources
// included.
func (b *Tab) Console() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]string(nil), b.console...)
}

// Elsewhere are the requests to others than this address.
func (b *Tab) Elsewhere(address string) (other []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, r := range b.requests {
		if !strings.HasPrefix(r, address+"/") && !strings.HasPrefix(r, "about:") && !strings.HasPrefix(r, "data:") {
			other = append(other, r)
		}
	}
	return other
}

// Bytes is how much has been loaded since the tab was opened.
func (b *Tab) Bytes() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return int(b.bytes)
}
