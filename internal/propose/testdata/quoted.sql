CREATE SCHEMA "My App";
CREATE TABLE "My App"."Orders" ("Id" bigint PRIMARY KEY, "Order Status" text NOT NULL DEFAULT 'it''s new'
  CHECK ("Order Status" IN ('it''s new', 'größer', 'say "hi"', '${HOME}', '100%', 'a, b')), "E-Mail" text, "colon: #hash" text);
CREATE TABLE "My App"."OrderLines" ("Order Id" bigint REFERENCES "My App"."Orders", "No" int, PRIMARY KEY ("Order Id", "No"));
CREATE TABLE "My App"."Order Notes" ("No" int PRIMARY KEY, "Order Id" bigint NOT NULL REFERENCES "My App"."Orders");
CREATE TABLE "true" (id int PRIMARY KEY);
CREATE TABLE "{a}:1*" (id int PRIMARY KEY);
CREATE TABLE "{b}:1" (id int PRIMARY KEY);
CREATE TABLE "_b__1" (id int PRIMARY KEY);
CREATE TABLE "with.dot" (id int PRIMARY KEY);
CREATE TABLE "- 'ünïcode' " (id int PRIMARY KEY);
CREATE TABLE "- 'ünïcode'" (id int PRIMARY KEY, "user" text);
CREATE TABLE "user" ("order" int NOT NULL UNIQUE, phone text);
CREATE TABLE "line
break" (id int PRIMARY KEY);
CREATE TABLE "!" (id int PRIMARY KEY, "Straße" text, status text);
