CREATE TABLE tenants (id uuid PRIMARY KEY, name text NOT NULL);
CREATE TABLE users (tenant_id uuid NOT NULL REFERENCES tenants ON DELETE CASCADE, id bigint, email text, PRIMARY KEY (tenant_id, id));
CREATE TABLE projects (tenant_id uuid NOT NULL REFERENCES tenants ON DELETE CASCADE, id bigint, title text, PRIMARY KEY (tenant_id, id));
-- Of a project, and a comment on a task is of the task, then the project.
CREATE TABLE tasks (tenant_id uuid NOT NULL, id bigint, project_id bigint NOT NULL, stage text NOT NULL DEFAULT 'to do', PRIMARY KEY (tenant_id, id),
  FOREIGN KEY (tenant_id, project_id) REFERENCES projects (tenant_id, id) ON DELETE CASCADE);
CREATE TABLE task_comments (tenant_id uuid NOT NULL, task_id bigint NOT NULL, no int, body text, PRIMARY KEY (tenant_id, task_id, no),
  FOREIGN KEY (tenant_id, task_id) REFERENCES tasks (tenant_id, id) ON DELETE CASCADE);
CREATE TABLE tenant_settings (tenant_id uuid PRIMARY KEY REFERENCES tenants ON DELETE CASCADE, plan text);
CREATE TABLE posts (id bigint PRIMARY KEY, title text);
-- A reaction does not hold the post's key.
CREATE TABLE post_comments (id bigint PRIMARY KEY, post_id bigint NOT NULL REFERENCES posts);
CREATE TABLE post_comment_reactions (id bigint PRIMARY KEY, post_comment_id bigint NOT NULL REFERENCES post_comments);
