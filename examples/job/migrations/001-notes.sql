-- Runs whole or not at all, so that a run that was cut off can be made again.
begin;
create table if not exists notes (id serial primary key, text text not null, at timestamptz not null default now());
insert into notes (text) select 'the migration was here' where not exists (select from notes);
commit;
