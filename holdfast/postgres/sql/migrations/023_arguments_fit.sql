-- As before (017_claimable.sql), at a sixth of the cost: a claim asks it for each row that waits before the first one
-- that fits, and those may be many thousands. Only expressions that PL/pgSQL evaluates without a query. The names in
-- `takes` are Python's identifiers: their JSON array becomes an array literal by its brackets.
CREATE OR REPLACE FUNCTION ops.arguments_fit(inputs text, takes jsonb) RETURNS boolean LANGUAGE plpgsql IMMUTABLE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    given jsonb;
    positional jsonb;
    named jsonb;
    by_name jsonb;
    by_position text[];
    positions integer := 0;
    names text[];
BEGIN
    IF takes IS NULL OR inputs IS NULL OR octet_length(inputs) > 100000 OR left(inputs, 1) <> '{' THEN
        RETURN true;
    END IF;
    given := inputs::jsonb;
    -- The second form is that of a tick (values.py has the tags).
    positional := coalesce(given -> 'positionalArgs', given #> '{args,$py:tuple}', given -> 'args');
    IF jsonb_typeof(positional) = 'array' THEN
        positions := jsonb_array_length(positional);
        IF takes ? 'tick' AND given ? 'args' THEN
            positions := least(positions, 1);
        END IF;
    ELSIF positional IS NULL THEN
        RETURN true;
    END IF;
    named := coalesce(given -> 'namedArgs', given -> 'kwargs');
    IF jsonb_typeof(named) IS DISTINCT FROM 'object' THEN
        named := '{}';
    END IF;
    -- A name of a parameter that takes only a position is that of another argument (**kwargs).
    by_name := named - coalesce(translate(takes ->> 'only_position', '[]', '{}')::text[], '{}');
    names := coalesce(translate(takes ->> 'names', '[]', '{}')::text[], '{}');
    by_position := names[:positions];
    RETURN (positions <= cardinality(names) OR takes ? 'any_position')
        AND NOT by_name ?| by_position
        AND (takes ? 'any_name' OR by_name = named
             AND named - names - coalesce(translate(takes ->> 'only_named', '[]', '{}')::text[], '{}') = '{}')
        AND by_name || jsonb_object(by_position, by_position)
            ?& coalesce(translate(takes ->> 'needs', '[]', '{}')::text[], '{}');
EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
    RETURN true;
END $$;
