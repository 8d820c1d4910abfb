package projector

import (
	"testing"

	"github.com/walrill/walrill/internal/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }
