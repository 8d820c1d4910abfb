CREATE TABLE notes (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, text text NOT NULL, written timestamptz NOT NULL);
CREATE TABLE tags (note_id bigint REFERENCES notes, tag text, PRIMARY KEY (note_id, tag));
