CREATE TABLE tenants (id text PRIMARY KEY, plan text NOT NULL);
-- The tenant is in every primary key, so that every event can be keyed by it.
CREATE TABLE projects (tenant_id text REFERENCES tenants, id bigint, title text NOT NULL, PRIMARY KEY (tenant_id, id));
CREATE TABLE tasks (tenant_id text, id bigint, project_id bigint NOT NULL, title text NOT NULL, done boolean NOT NULL DEFAULT false,
  PRIMARY KEY (tenant_id, id), FOREIGN KEY (tenant_id, project_id) REFERENCES projects);
