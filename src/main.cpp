#include "nibble/cli/arguments.h"

int main(int argc, char** argv) { return nibble::run_cli(argc, argv); }
