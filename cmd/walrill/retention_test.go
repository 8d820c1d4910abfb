package main

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"github.com/walrill/walrill/web"
)

// A group that is behind for a moment, as that of a view which comes back and is filled, is not told of; one that stays
// behind is, once, and so is that it has let go.
func TestGroupsAreToldOfWhenTheyStayBehind(t *testing.T) {
	var out bytes.Buffer
	k := &retention{log: slog.New(slog.NewTextHandler(&out, nil)), passes: map[holder]int{}}
	group := &heldStream{HeldStream: web.HeldStream{Stream: "orders", Group: "view:seen"}, holder: holder{"orders", "view:seen"}, overdue: true}
	for range heldPasses - 1 {
		k.logHeld([]*heldStream{group})
	}
	k.logHeld(nil)
	for range heldPasses - 1 {
		k.logHeld([]*heldStream{group})
	}
	if out.Len() > 0 {
		t.Fatalf("told of a group that was behind for a moment: %s", &out)
	}
	for range 3 {
		k.logHeld([]*heldStream{group})
	}
	group.overdue = false // not far, but still
	k.logHeld([]*heldStream{group})
	k.logHeld(nil)
	k.logHeld(nil)
	if warned, let := strings.Count(out.String(), "level=WARN"), strings.Count(out.String(), "any more"); warned != 1 || let != 1 {
		t.Errorf("%d warnings, %d times that it has let go, want 1 and 1: %s", warned, let, &out)
	}
}
