package config

// DefaultPipeline is the pipeline's name when there is no file.
const DefaultPipeline = "walrill"

// FromFlags makes the configuration of
// `walrill run --source URL --sink URL --tables 'public.*'`: the tables, or
// whole schemas, each in a stream of its own name. An empty pipeline is
// DefaultPipeline. The error is Errors, their files the flags' names.
func FromFlags(source, sink string, tables []string, pipeline string) (*Config, error) {
	r := newReader(nil)
	r.cfg.Pipeline = pipeline
	if pipeline == "" {
		r.cfg.Pipeline = DefaultPipeline
	}
	if msg := checkPipeline(r.cfg.Pipeline); msg != "" {
		r.fail(Pos{File: "--pipeline"}, "", "the name %s %s", show(pipeline), msg)
	}
	if msg := checkAddress(source, checkSource); msg != "" {
		r.fail(Pos{File: "--source"}, "", "the URL %s", msg)
	}
	if msg := checkAddress(sink, checkSink); msg != "" {
		r.fail(Pos{File: "--sink"}, "", "the URL %s", msg)
	}
	r.cfg.Source.URL, r.cfg.Sink.URL = NewURL(source), NewURL(sink)

	at := Pos{File: "--tables"}
	all := Stream{Name: "*", Partitions: 1, Compatibility: CompatibilityBackward, At: at}
	if len(tables) == 0 {
		r.fail(at, "", "no table is given; write `--tables 'public.*'` for all tables of the schema public")
	}
	for _, written := range tables {
		t, msg := newTable(written, at, all.Tables)
		if msg != "" {
			r.fail(at, "", "%s", msg)
			continue
		}
		all.Tables = append(all.Tables, t)
	}
	r.cfg.Streams = []Stream{all}
	r.defaults()
	return r.finish()
}
