"""The tables of the PostgreSQL store, and the statements that are longer than a line.

`english` decides what a word is: stems, without stop words. ASCII punctuation becomes blanks first, because
PostgreSQL's parser would otherwise keep `screw-printer`, `a.txt` and `/usr/lib` as words of their own.
"""

from __future__ import annotations

from typing import Final, LiteralString

#: Of the tables; another version is refused.
VERSION: Final = 1
SCHEMA: Final[LiteralString] = "lucid_knowledge"
#: Key of the advisory lock that an indexer holds: any number that others do not use.
LOCK: Final = 0x6C75636964

#: The words of a text, as a tsvector.
WORDS: Final[LiteralString] = (
    r"to_tsvector('pg_catalog.english'::regconfig, regexp_replace({}, '[][!-/:-@\\^_`{{-~]+', ' ', 'g'))"
)

#: Makes the tables; run in one transaction. `meta` has one row.
CREATE: Final[tuple[LiteralString, ...]] = (
    "CREATE EXTENSION IF NOT EXISTS vector SCHEMA public",
    "CREATE SCHEMA IF NOT EXISTS lucid_knowledge",
    "CREATE TABLE meta (version int NOT NULL, recipe jsonb, n_chunks bigint NOT NULL, n_tokens bigint NOT NULL)",
    f"INSERT INTO meta VALUES ({VERSION}, NULL, 0, 0)",
    """CREATE TABLE file (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        file text COLLATE "C" NOT NULL UNIQUE,
        size bigint NOT NULL,
        mtime_ns bigint NOT NULL,
        digest text NOT NULL,
        skipped text NOT NULL,
        n_chunks int NOT NULL
    )""",
    f"""CREATE TABLE chunk (
        file_id bigint NOT NULL REFERENCES file ON DELETE CASCADE,
        idx int NOT NULL,
        start_char int NOT NULL,
        end_char int NOT NULL,
        n_tokens int NOT NULL,
        text text NOT NULL,
        vector vector NOT NULL,
        words tsvector NOT NULL GENERATED ALWAYS AS ({WORDS.format("text")}) STORED,
        PRIMARY KEY (file_id, idx)
    )""",
    "CREATE INDEX chunk_words ON chunk USING gin (words) WITH (fastupdate = off)",
    'CREATE TABLE word (word text COLLATE "C" PRIMARY KEY, n bigint NOT NULL)',
)

#: The index of vectors: the type it holds, that type's name, m and ef_construction.
CREATE_HNSW: Final[LiteralString] = (
    "CREATE INDEX chunk_vector ON chunk USING hnsw ((vector::{}) {}_ip_ops) WITH (m = {}, ef_construction = {})"
)

#: How many chunks of some files have each word.
_COUNTS: Final[LiteralString] = (
    "SELECT lexeme, count(*) AS n FROM chunk, unnest(words) WHERE file_id = ANY(%s) GROUP BY lexeme"
)
ADD_WORDS: Final[LiteralString] = (
    f"INSERT INTO word (word, n) {_COUNTS} ON CONFLICT (word) DO UPDATE SET n = word.n + excluded.n"
)
SUBTRACT_WORDS: Final[LiteralString] = f"UPDATE word SET n = word.n - gone.n FROM ({_COUNTS}) gone WHERE word = lexeme"

_TOTALS: Final[LiteralString] = (
    "SELECT count(*) AS n, coalesce(sum(n_tokens), 0) AS t FROM chunk WHERE file_id = ANY(%s)"
)
ADD_TOTALS: Final[LiteralString] = (
    f"UPDATE meta SET n_chunks = n_chunks + part.n, n_tokens = n_tokens + part.t FROM ({_TOTALS}) part"
)
SUBTRACT_TOTALS: Final[LiteralString] = (
    f"UPDATE meta SET n_chunks = n_chunks - part.n, n_tokens = n_tokens - part.t FROM ({_TOTALS}) part"
)

#: Number of files, of those skipped, of chunks and tokens, and bytes of the schema.
STATS: Final[LiteralString] = """
SELECT (SELECT count(*) FROM file), (SELECT count(*) FROM file WHERE skipped <> ''), n_chunks, n_tokens, (
    SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint FROM pg_class c
    JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'lucid_knowledge' AND c.relkind = 'r'
) FROM meta
"""

#: Chunks of a file from one index to another.
CHUNKS: Final[LiteralString] = (
    "SELECT c.idx, c.start_char, c.end_char, c.n_tokens, c.text FROM chunk c JOIN file f ON f.id = c.file_id "
    "WHERE f.file = %s AND c.idx BETWEEN %s AND %s ORDER BY c.idx"
)

#: Nearest chunks; `{}` is the type that the index has. A store without this fingerprint gives nothing.
DENSE: Final[LiteralString] = """
SELECT f.file, c.idx, c.start_char, c.end_char, c.n_tokens, c.text, c.score FROM (
    SELECT *, -((vector::{0}) <#> %(vector)s::{0}) AS score FROM chunk
    WHERE (SELECT recipe->>'fingerprint' FROM meta) = %(fingerprint)s
    ORDER BY (vector::{0}) <#> %(vector)s::{0} LIMIT %(limit)s
) c JOIN file f ON f.id = c.file_id ORDER BY c.score DESC, f.file, c.idx
"""

#: How near given chunks are, by their place in the list. A store without this fingerprint gives nothing.
COMPARE: Final[LiteralString] = """
SELECT wanted.place, -(c.vector <#> %(vector)s)
FROM unnest(%(files)s::text[], %(indices)s::int[]) WITH ORDINALITY AS wanted (file, idx, place)
JOIN file f ON f.file = wanted.file JOIN chunk c ON c.file_id = f.id AND c.idx = wanted.idx
WHERE (SELECT recipe->>'fingerprint' FROM meta) = %(fingerprint)s ORDER BY wanted.place
"""

#: The known words of a query with the number of chunks that have them, rarest first.
QUERY_WORDS: Final[LiteralString] = (
    "SELECT word, word.n, meta.n_chunks, meta.n_tokens FROM meta, unnest("
    + WORDS.format("%s")
    + ") JOIN word ON word = lexeme WHERE word.n > 0 ORDER BY word.n, word LIMIT %s"
)

#: Chunks with one of the proposing words, ranked by all words.
#:
#: BM25 (Robertson and Zaragoza, 2009) with another saturation: with all weights 1, `ts_rank` of a word that occurs tf
#: times is proportional to 1 + 1/4 + ... + 1/tf^2, which rises and levels off as tf * 2.2 / (tf + 1.2) does, and it
#: needs no list of occurrences. The length of a chunk counts as in BM25 with b = 0.75.
LEXICAL: Final[LiteralString] = """
SELECT f.file, c.idx, c.start_char, c.end_char, c.n_tokens, c.text, c.score FROM (
    SELECT *, (
        SELECT sum(idf * 1.6449 * ts_rank('{1,1,1,1}', words, quote_literal(word)::tsquery))
        FROM unnest(%(words)s::text[], %(idfs)s::float8[]) AS query (word, idf)
    ) / (0.25 + 0.75 * n_tokens / %(length)s) AS score FROM chunk
    WHERE words @@ (SELECT string_agg(quote_literal(w), '|')::tsquery FROM unnest(%(proposing)s::text[]) w)
    ORDER BY score DESC, file_id, idx LIMIT %(limit)s
) c JOIN file f ON f.id = c.file_id ORDER BY c.score DESC, f.file, c.idx
"""
