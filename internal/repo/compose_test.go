package repo_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"

	"github.com/walrill/walrill/config"
)

// loadCompose loads docker-compose.yml as docker compose would, which also
// checks it against the Compose schema.
func loadCompose(t *testing.T) *types.Project {
	t.Helper()
	dir, err := filepath.Abs(root)
	if err != nil {
		t.Fatal(err)
	}
	project, err := loader.LoadWithContext(t.Context(), types.ConfigDetails{
		WorkingDir:  dir,
		ConfigFiles: []types.ConfigFile{{Filename: filepath.Join(dir, "docker-compose.yml")}},
		Environment: types.Mapping{},
	})
	if err != nil {
		t.Fatalf("load docker-compose.yml: %v", err)
	}
	return project
}

func TestCompose(t *testing.T) {
	project := loadCompose(t)
	if command := project.Services["postgres"].Command; !slices.Contains(command, "wal_level=logical") {
		t.Errorf("postgres runs %q, without wal_level=logical", command)
	}
	for name, service := range project.Services {
		for _, volume := range service.Volumes {
			if info, err := os.Stat(volume.Source); err != nil || !info.Mode().IsRegular() {
				t.Errorf("%s mounts %s, which is not a file here", name, volume.Source)
			}
		}
		for _, port := range service.Ports {
			if port.HostIP != "127.0.0.1" {
				t.Errorf("%s publishes port %s on %q: want 127.0.0.1", name, port.Published, port.HostIP)
			}
		}
		for other, dependency := range service.DependsOn {
			needed, ok := project.Services[other]
			if !ok {
				t.Errorf("%s depends on %s, which is not a service", name, other)
			}
			if dependency.Condition == types.ServiceConditionHealthy && needed.HealthCheck == nil {
				t.Errorf("%s waits until %s is healthy, which has no healthcheck", name, other)
			}
		}
		if build := service.Build; build != nil {
			if _, err := os.Stat(filepath.Join(build.Context, build.Dockerfile)); err != nil {
				t.Errorf("%s is built from a file that is not there: %v", name, err)
			}
		}
	}
}

// TestComposeConfig parses the file that walrill gets, with the environment that it gets.
func TestComposeConfig(t *testing.T) {
	service := loadCompose(t).Services["walrill"]
	if len(service.Volumes) != 1 {
		t.Fatalf("walrill mounts %d files: want its configuration only", len(service.Volumes))
	}
	_, err := config.Load(service.Volumes[0].Source, func(name string) (string, bool) {
		value, ok := service.Environment[name]
		if !ok || value == nil {
			return "", false
		}
		return *value, true
	})
	if err != nil {
		t.Error(err)
	}
}
